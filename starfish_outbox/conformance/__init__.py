"""Runs programs in any language against each other: each speaks the driver protocol of ``interop/``.

`driver` starts one and asks it; `sequences` does the same random operations on several and compares after each; `relay`
passes one stored queue from hand to hand and compares with `model`.
"""
