"""All that is wanted of a few minutes on a GPU, in stages: `make campaign OUT=DIR MINUTES=9`.

    smoke      every field on the device against the CPU: one training step, one sample, one score
    tests      the tests that judge most, on the device
    training   a model of top jets for the largest share of the time, its samples and their metrics
    speeds     time per jet and shares of the peak, of fields, likelihoods, plans and attention

Each stage is a process of its own with a time limit, so that none can take another down or its
time; it writes what it finds after every row, so that a stage which is cut off leaves what it had.
"""
