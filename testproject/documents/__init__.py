"""An example of django_jobs: documents are chunked, vectorized, mined for facts, and searched."""
