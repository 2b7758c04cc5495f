"""The HTTP service: one process, one owner of the model, micro-batches of whatever waits.

guard      keys, limits, headers, counts: before any route
routes/    JSON in, JSON out; each file one subject
person     who is asking: the data set's history and what the store has heard since
works      what is asked of the model, several payloads at once
worker     the one thread that owns the model
"""
