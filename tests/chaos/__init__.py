"""Random faults at real workers and servers, and a check of what became of every job."""
