"""A worker's children: long-lived processes that run one job after another, and how the worker deals with
them.

The worker claims and reports; it hands each child what it has claimed and reads how it ended. A *forker*, a
process without threads and connections that has imported the project once, forks the children and tells of
their ends.
"""
