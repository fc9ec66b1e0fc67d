import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # torchrl 0.14 deprecates classes of its own while importing
    import torchrl.collectors  # noqa: F401
