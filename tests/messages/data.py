"""What is wrong with training pairs and eval sets."""

import gzip
import json
from functools import partial
from pathlib import Path

from mnrl_job.config.row_filter import parse_row_filter
from mnrl_job.data.file_formats.common import BadRow
from mnrl_job.data.pairs import Pairs
from mnrl_job.pipeline.check_sample import check_bad_rows
from mnrl_job.pipeline.data_requirements import check_batch_size
from tests.messages.provoking import (
    BEIR,
    Catalogue,
    batches,
    beir,
    evaluation,
    holding_out,
    input_at,
    judged,
    lines,
    training,
    training_folder,
    without_eval_sets,
)

PAIR = {"anchor": "a", "positive": "b"}
IN_BLOCKS = tuple(BadRow(f"p.jsonl, near byte {byte}", "empty", "positive") for byte in (4096, 8192))
HEADER = "query-id\tcorpus-id\tscore\n"

INPUTS: Catalogue = {
    "a file that is not there": (
        input_at("nowhere.jsonl"),
        66,
        "MNRL_TRAIN_DATA: nowhere.jsonl does not exist or contains no files; give a file, folder or glob",
    ),
    "an eval set that is not there": (
        input_at("nowhere", "MNRL_EVAL_DATA"),
        66,
        "MNRL_EVAL_DATA: nowhere does not exist or contains no files; give a file, folder or glob",
    ),
    "a storage that is not read": (
        input_at("ftp://host/p.jsonl"),
        64,
        "MNRL_TRAIN_DATA: ftp://host/p.jsonl: ftp:// is not supported; give a path, file:// or s3:// URI",
    ),
    "a URI without a bucket": (
        input_at("s3:///p.jsonl"),
        64,
        "MNRL_TRAIN_DATA: s3:///p.jsonl has no bucket; expected s3://BUCKET/PREFIX",
    ),
}
FORMATS: Catalogue = {
    "a suffix that is not read": (
        training(b"PK", "p.docx"),
        65,
        "p.docx: unknown format .docx; expected .jsonl, .ndjson, .json, .csv, .tsv (plain, .gz or .zst) or .parquet; "
        "exclude it with a glob such as folder/*.jsonl",
    ),
    "a Git LFS pointer": (
        training(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'cd' * 32}\nsize 9\n"),
        65,
        "p.jsonl: the file is a Git LFS pointer, not the data; run git lfs pull in the clone",
    ),
    "a page to sign in": (
        training("<!DOCTYPE html>\n<title>Sign in</title>"),
        65,
        "p.jsonl: the file is an HTML or XML page; download the data itself, this may be an error page",
    ),
    "a torn archive": (
        training(gzip.compress(lines(PAIR).encode())[:-9], "p.jsonl.gz"),
        65,
        "p.jsonl.gz: the file is damaged or does not match its suffix: Compressed file ended before the end-of-stream "
        "marker was reached",
    ),
    "a torn table": (
        training(b"PAR1" + bytes(20), "p.parquet"),
        65,
        "p.parquet: the file is damaged or does not match its suffix: Parquet magic bytes not found in footer. Either "
        "the file is corrupted or this is not a parquet file",
    ),
    "a line that is no JSON": (
        training(lines(PAIR) + '{"anchor": "torn\n'),
        65,
        "p.jsonl:2: malformed JSON (Unterminated string starting at: line 1 column 12 (char 11)); 1 of 2 rows are "
        "unusable (1 malformed JSON), more than MNRL_MAX_BAD_ROW_RATIO=0 allows; fix them, or set "
        "MNRL_MAX_BAD_ROW_RATIO=0.5 to skip them",
    ),
    "a JSON array": (
        training(json.dumps([PAIR, PAIR])),
        65,
        "p.jsonl:1: a JSON array; expected JSON Lines, one object per line; convert it with jq -c '.[]'",
    ),
    "a column's name in Latin-1": (
        training("anchor,positive,größe\na,b,1\n".encode("latin-1"), "p.csv"),
        65,
        "p.csv:1: the column name b'gr\\xf6\\xdfe' is not UTF-8; save the file as UTF-8",
    ),
    "a quotation mark that is not closed": (
        training('anchor,positive\n"a,b\nc,d\n', "p.csv"),
        65,
        "p.csv:2: malformed: unexpected end of data; quote texts that contain quotation marks, and double the marks "
        "inside, as spreadsheets do",
    ),
}
COLUMNS: Catalogue = {
    "no column that is known": (
        training(lines({"title": "a", "body": "b"})),
        65,
        "p.jsonl: no anchor column; found title, body; expected one of anchor, query, question, or set "
        "MNRL_ANCHOR_COLUMN",
    ),
    "a column that is not there": (
        training(lines(PAIR), anchor_column="title"),
        65,
        "p.jsonl: MNRL_ANCHOR_COLUMN=title is not a column; found anchor, positive",
    ),
    "columns that differ in case": (
        training("Anchor,ANCHOR,positive\na,b,c\n", "p.csv"),
        65,
        "p.csv: the columns 'Anchor', 'ANCHOR' differ only in case or whitespace; rename all but one",
    ),
    "a filter on no column": (
        training(lines(PAIR), row_filter=parse_row_filter("label=1")),
        65,
        "p.jsonl: MNRL_ROW_FILTER=label is not a column; found anchor, positive",
    ),
    "a filter that takes no row": (
        training(lines(PAIR | {"split": "dev"}), row_filter=parse_row_filter("split=train")),
        65,
        "p.jsonl: MNRL_ROW_FILTER=\"split=train\" matches no row of s0, where split is 'dev' in 1 rows",
    ),
    "a filter that cannot compare": (
        training(lines(PAIR | {"label": "good"}), row_filter=parse_row_filter("label>=1")),
        65,
        "p.jsonl:1: MNRL_ROW_FILTER=label>=1 cannot compare label: 'good' is not a number",
    ),
    "labels that say no": (
        training(lines(PAIR | {"label": 0})),
        65,
        "p.jsonl:1: column label is 0 in all 1 rows; it may mark which rows to train on; set MNRL_ROW_FILTER=all to "
        "use all",
    ),
    "labels that differ": (
        training(lines(PAIR | {"label": 1}, PAIR | {"label": 0})),
        65,
        "p.jsonl:2: column label varies between rows (1 in 1 rows, 0 in 1 rows); it may mark which rows to train on; "
        'set MNRL_ROW_FILTER="label>=1" to use only those rows, or MNRL_ROW_FILTER=all to use all',
    ),
}
ROWS: Catalogue = {
    "an empty text": (
        training(lines(PAIR, PAIR | {"positive": " "})),
        65,
        "p.jsonl:2: empty (positive); 1 of 2 rows are unusable (1 empty), more than MNRL_MAX_BAD_ROW_RATIO=0 allows; "
        "fix them, or set MNRL_MAX_BAD_ROW_RATIO=0.5 to skip them",
    ),
    "a number for a text": (
        training(lines(PAIR, PAIR | {"positive": 7})),
        65,
        "p.jsonl:2: not text (positive is of type int); 1 of 2 rows are unusable (1 not text), more than "
        "MNRL_MAX_BAD_ROW_RATIO=0 allows; fix them, or set MNRL_MAX_BAD_ROW_RATIO=0.5 to skip them",
    ),
    "more bad rows than tolerated": (
        training(lines(*[PAIR] * 9, {"anchor": "", "positive": "b"}), max_bad_row_ratio=0.05),
        65,
        "p.jsonl:10: empty (anchor); 1 of 10 rows are unusable (1 empty), more than MNRL_MAX_BAD_ROW_RATIO=0.05 "
        "allows; fix them, or set MNRL_MAX_BAD_ROW_RATIO=0.1 to skip them",
    ),
    "more bad rows in a sample than tolerated": (
        partial(check_bad_rows, Pairs(Path(), (), 998, 1000, {"empty": 2}, IN_BLOCKS, ()), 0),
        65,
        "p.jsonl, near byte 4096: empty (positive); 2 of 1000 sampled rows are unusable (2 empty), 0.055 % to 0.73 % "
        "of all rows (95 %), more than MNRL_MAX_BAD_ROW_RATIO=0 allows; fix them, or set MNRL_MAX_BAD_ROW_RATIO=0.0073 "
        "to skip them",
    ),
    "no rows": (
        training(""),
        65,
        "p.jsonl: the file has no rows; expected rows with an anchor and a positive text",
    ),
    "a folder with judgements to evaluate on": (
        training_folder(BEIR),
        65,
        "set: qrels/train.tsv is missing, and qrels/test.tsv is for evaluation only; training data in BEIR layout is "
        "a folder with corpus.jsonl, queries.jsonl and qrels/train.tsv",
    ),
    "judgements of an unknown document": (
        training_folder(BEIR | {"qrels/train.tsv": HEADER + "q1\td9\t1\n"}),
        65,
        "set/qrels/train.tsv:2: unknown id (corpus.jsonl has no 'd9'); 1 of 1 rows are unusable (1 unknown id), more "
        "than MNRL_MAX_BAD_ROW_RATIO=0 allows; fix them",
    ),
}
EVAL_SETS: Catalogue = {
    "nothing to hold out": (
        holding_out([("a", "same"), ("b", "same")], holdout_ratio=0.5, holdout_max_queries=1),
        65,
        "MNRL_HOLDOUT_RATIO=0.5, MNRL_HOLDOUT_MAX_QUERIES=1: no group of the 2 rows is small enough to hold out; give "
        "MNRL_EVAL_DATA, more pairs, or MNRL_HOLDOUT_RATIO=0 to train without evaluation",
    ),
    "a folder without queries": (
        beir(queries=None),
        65,
        "set: queries.jsonl is missing; an eval set is a folder with corpus.jsonl, queries.jsonl and "
        "qrels/test.tsv (each may be .gz), or one JSON file",
    ),
    "a document that is not there": (
        beir(qrels=HEADER + "q1\td9\t1\n"),
        65,
        "set/qrels/test.tsv:2: unknown id (no document 'd9'); 1 of 1 judgments are unusable (1 unknown id), more "
        "than MNRL_MAX_BAD_ROW_RATIO=0 allows; fix them",
    ),
    "a score that is no whole number": (
        beir(qrels=HEADER + "q1\td1\tgood\n"),
        65,
        "set/qrels/test.tsv:2: invalid score (score 'good' of 'd1' is not an integer up to 1000000000); 1 of 1 "
        "judgments are unusable (1 invalid score), more than MNRL_MAX_BAD_ROW_RATIO=0 allows; fix them",
    ),
    "nothing that is relevant": (
        beir(qrels=HEADER + "q1\td1\t0\n"),
        65,
        "set/qrels/test.tsv: no judgment has a score above 0, so no document is relevant",
    ),
    "an empty document": (
        beir(corpus='{"_id": "d1", "text": ""}\n'),
        65,
        "set/corpus.jsonl:1: empty (text of 'd1'); 1 of 1 documents are unusable (1 empty), more than "
        "MNRL_MAX_BAD_ROW_RATIO=0 allows; fix them",
    ),
    "an id that stands twice": (
        beir(corpus=BEIR["corpus.jsonl"].replace("d2", "d1")),
        65,
        "set/corpus.jsonl:2: duplicate id ('d1'; ids must be unique); 1 of 2 documents are unusable (1 duplicate id), "
        "more than MNRL_MAX_BAD_ROW_RATIO=0 allows; fix them, or set MNRL_MAX_BAD_ROW_RATIO=0.5 to skip them",
    ),
    "a file that is no JSON": (
        evaluation("set.json", {"set.json": "{"}),
        65,
        "set.json: invalid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
    ),
    "an id that is none": (
        judged(relevant_docs={"q1": [None]}),
        65,
        "set.json: relevant_docs['q1']: not text (an id is of type null; expected text or an integer); 1 of 1 "
        "judgments are unusable (1 not text), more than MNRL_MAX_BAD_ROW_RATIO=0 allows; fix them",
    ),
    "a metric of another eval set": (
        without_eval_sets(primary_metric="faq.ndcg@10"),
        64,
        "MNRL_PRIMARY_METRIC=faq.ndcg@10: no eval set is named 'faq'; there are: none",
    ),
    "a gate without an eval set": (
        without_eval_sets(min_gain=0.1),
        64,
        "MNRL_MIN_GAIN, MNRL_MAX_P_VALUE and MNRL_MAX_GUARD_LOSS need an eval set; name one in MNRL_EVAL_DATA, or "
        "hold training pairs out (MNRL_HOLDOUT_RATIO)",
    ),
    "a limit on the loss of general search without an eval set": (
        without_eval_sets(max_guard_loss=0.1),
        64,
        "MNRL_MIN_GAIN, MNRL_MAX_P_VALUE and MNRL_MAX_GUARD_LOSS need an eval set; name one in MNRL_EVAL_DATA, or "
        "hold training pairs out (MNRL_HOLDOUT_RATIO)",
    ),
}
BATCHES: Catalogue = {
    "a batch larger than the data": (
        batches(20, batch_size=64),
        64,
        "MNRL_BATCH_SIZE=64 is larger than the 20 training pairs; set it to 20 or less",
    ),
    "a batch the workers cannot share": (
        partial(check_batch_size, 4, 8),
        64,
        "MNRL_BATCH_SIZE=4 is less than the 8 workers; set it to 8 or more, or run fewer workers (MNRL_NUM_PROCESSES)",
    ),
    "one positive for all": (
        batches(1, batch_size=8),
        65,
        "MNRL_TRAIN_DATA: all 20 training pairs have the same positive, so there are no negatives to train "
        "against; give pairs with different positives, or negatives",
    ),
}
