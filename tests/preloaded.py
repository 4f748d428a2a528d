"""Everything that a run imports, also late and in its workers; for the process that others are forked from."""

import gc

import torch._dynamo
import transformers.models.bert.modeling_bert
import transformers.models.bert.tokenization_bert

import mnrl_job.cli
import mnrl_job.pipeline.check
import mnrl_job.pipeline.evaluate
import mnrl_job.pipeline.train
import mnrl_job.pipeline.verify
import mnrl_job.start
import mnrl_job.worker.main

__all__ = ["mnrl_job", "torch", "transformers"]

gc.freeze()  # or collecting would copy the pages that hold them
