"""The preview of a job, `edict plan`: what the job would do and cost, before anything runs."""
