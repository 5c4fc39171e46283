"""oppu-core: everything that makes a personal language model.

From left to right, as in the pipeline: :mod:`tasks`, :mod:`data`, :mod:`retrieval`, :mod:`profiles`,
:mod:`prompts`, :mod:`packing`, :mod:`training`, :mod:`store`, :mod:`inference`; :mod:`models` and
:mod:`generate` lie underneath. Importing this package imports no torch.
"""

__version__ = "0.1.0"
