"""What is wrong with settings, .env and the nodes."""

from tests.messages.provoking import Catalogue, dotenv, environment, nodes

SETTINGS: Catalogue = {
    "no training data": (
        environment(MNRL_TRAIN_DATA=""),
        64,
        "MNRL_TRAIN_DATA is required: one or more of uri, name=uri or name:weight=uri, comma separated; a file, "
        "folder or glob, local or s3://",
    ),
    "no output": (
        environment(MNRL_OUTPUT=""),
        64,
        "MNRL_OUTPUT is required: a folder or an s3:// prefix",
    ),
    "no eval data to evaluate on": (
        environment("evaluate"),
        64,
        "MNRL_EVAL_DATA is required: one or more of uri or name=uri, comma separated; a file, folder or glob, "
        "local or s3://",
    ),
    "an unknown name": (
        environment(MNRL_BATCHSIZE="8"),
        64,
        "MNRL_BATCHSIZE is not a setting; did you mean MNRL_BATCH_SIZE?",
    ),
    "a word for a number": (
        environment(MNRL_BATCH_SIZE="many"),
        64,
        "MNRL_BATCH_SIZE='many' is invalid; expected an integer of at least 2",
    ),
    "a number beyond its bound": (
        environment(MNRL_LEARNING_RATE="2"),
        64,
        "MNRL_LEARNING_RATE='2' is invalid; expected auto or a number above 0 and up to 1",
    ),
    "none of a few words": (
        environment(MNRL_PRECISION="fp8"),
        64,
        "MNRL_PRECISION='fp8' is invalid; expected auto, fp32, bf16 or fp16",
    ),
    "a switch that is neither on nor off": (
        environment(MNRL_GRADIENT_CHECKPOINTING="sometimes"),
        64,
        "MNRL_GRADIENT_CHECKPOINTING='sometimes' is invalid; expected true or false",
    ),
    "a time without a unit": (
        environment(MNRL_HANG_TIMEOUT="30"),
        64,
        "MNRL_HANG_TIMEOUT='30' is invalid (missing unit); expected a time (90s, 10m, 1h)",
    ),
    "a metric that is not computed": (
        environment(MNRL_PRIMARY_METRIC="bleu"),
        64,
        "MNRL_PRIMARY_METRIC='bleu' is invalid (unknown metric); expected accuracy|precision|recall|mrr|map|ndcg@k "
        "with k from MNRL_METRIC_CUTOFFS, or NAME.metric for an eval set",
    ),
    "a setting that became a command": (
        environment(MNRL_EXPORT="onnx"),
        64,
        "MNRL_EXPORT is no longer a setting: export a published run with `mnrl-job export RUN_URI --format FORMAT`; "
        "remove it",
    ),
    "a filter that is none": (
        environment(MNRL_ROW_FILTER="label>=1 or split=train"),
        64,
        "MNRL_ROW_FILTER='label>=1 or split=train' is invalid (expected 'and' before 'or split=train'); expected "
        "conditions such as label>=1 (operators = != >= <= > <) joined by 'and', or all for every row",
    ),
    "two sources of one name": (
        environment(MNRL_TRAIN_DATA="a/x.jsonl,b/x.csv"),
        64,
        "MNRL_TRAIN_DATA='a/x.jsonl,b/x.csv' is invalid (two sources are named 'x'; rename one as name=uri); expected "
        "one or more of uri, name=uri or name:weight=uri, comma separated; a file, folder or glob, local or s3://",
    ),
    "a source's weight that is no number": (
        environment(MNRL_TRAIN_DATA="faq:x=faq.jsonl"),
        64,
        "MNRL_TRAIN_DATA='faq:x=faq.jsonl' is invalid ('faq:x=faq.jsonl': the weight 'x' is not a number above 0, as "
        "in name:2.5=uri); expected one or more of uri, name=uri or name:weight=uri, comma separated; a file, folder "
        "or glob, local or s3://",
    ),
    "an eval set with a weight": (
        environment(MNRL_EVAL_DATA="faq:3=faq.json"),
        64,
        "MNRL_EVAL_DATA='faq:3=faq.json' is invalid ('faq:3=faq.json': eval sets take no weight; write faq=faq.json); "
        "expected one or more of uri or name=uri, comma separated; a file, folder or glob, local or s3://",
    ),
    "the guided loss without a guide": (
        environment(MNRL_LOSS="guided"),
        64,
        "MNRL_LOSS=guided requires MNRL_GUIDE_MODEL: a Hub id (id@revision), a folder or an s3:// prefix",
    ),
    "quotes that came along": (
        environment(MNRL_SEED="'7'"),
        64,
        "MNRL_SEED='7' has literal quotes, which `docker run --env-file` and Kubernetes keep; expected an integer "
        "from 0 to 4294967295, without quotes",
    ),
    "an eval set with the name of the general guard": (
        environment(MNRL_EVAL_DATA="general-search=faq.json"),
        64,
        "MNRL_EVAL_DATA: 'general-search' is the name of the bundled set of general search; give the eval set another "
        "(NAME=URI), or set MNRL_GENERAL_GUARD=off",
    ),
    "a token with a line break": (
        environment(HF_TOKEN="hf_1\n"),  # noqa: S106 - it is none
        64,
        "HF_TOKEN has leading or trailing whitespace, as Kubernetes Secrets created with `echo` do; create it with "
        "`printf %s` or `echo -n`",
    ),
    "a wrong value in .env": (
        dotenv("MNRL_SEED=x\n"),
        64,
        "MNRL_SEED='x' in .env is invalid; expected an integer from 0 to 4294967295",
    ),
    "a line of .env that is none": (
        dotenv("MNRL_SEED\n"),
        64,
        ".env:1: MNRL_SEED is not valid; expected NAME=value",
    ),
    ".env in UTF-16": (
        dotenv("MNRL_SEED=1".encode("utf-16")),
        64,
        ".env:1: UTF-16, as PowerShell's > writes it; save the file as UTF-8",
    ),
}
NODES: Catalogue = {
    "a node without a number": (
        nodes(num_nodes="2", master_addr="node-0", run_id="r"),
        64,
        "MNRL_NODE_RANK is required with 2 nodes: the rank of this node, counted from 0",
    ),
}
