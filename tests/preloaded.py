"""Everything that a run imports or builds once, also late and in its workers; for the process that others are forked
from.
"""

import gc
from functools import cache

import bm25s
import rich._emoji_codes
import torch._dynamo
import transformers.models.align
import transformers.models.bert.modeling_bert
import transformers.models.bert.tokenization_bert
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import mnrl_job.agent.__main__
import mnrl_job.agent.main
import mnrl_job.cli
import mnrl_job.pipeline.check
import mnrl_job.pipeline.evaluate
import mnrl_job.pipeline.prepare
import mnrl_job.pipeline.train
import mnrl_job.pipeline.verify
import mnrl_job.report.run_result
import mnrl_job.start
import mnrl_job.worker.main
from mnrl_job.report import html_report
from tests import forked

__all__ = ["bm25s", "forked", "mnrl_job", "rich", "torch", "transformers"]

get_checkpoint_conversion_mapping("bert")  # a thousand regular expressions
html_report._environment = cache(html_report._environment)
html_report._environment().get_template("template.html")

gc.freeze()  # or collecting would copy the pages that hold them
