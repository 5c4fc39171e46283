"""How far two trainings in float32 may be apart that only add up in another order; relative.

The order is a matter of the CPU (AVX2 or AVX512), of its libraries and threads; these bounds hold on any of
them. Noise of one unit in the last place behind every module moved losses by up to 4e-5, adapters by up to
1e-4, and where UNDECIDED is used by up to 3e-3. In doubles nothing of it is left: there adapters are held to
1e-10 (tests/end_to_end/test_invariants.py).
"""

LOSSES = 1e-4
ADAPTERS = 1e-3
# AdamW divides by the gradient's own size: where that is near 0, as for some of the scales of (IA)³ on GPT-2,
# rounding decides on a step.
UNDECIDED = 1e-2
