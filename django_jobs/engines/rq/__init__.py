"""Jobs on RQ: queues and connections are django-rq's `RQ_QUEUES`, workers are RQ's own, subclassed."""
