"""Task files for lm-evaluation-harness, and the functions they name.

Their names begin with `mora_`, so that they can never stand in for a task of lm-eval's own. Where
lm-eval has the task, prompt and score are its own (a test compares them); what differs is that the
data may come from `data_dir`. With lm-eval's command line:

    lm_eval run --tasks mora_gsm8k --include_path tasks/lm_eval ...
"""
