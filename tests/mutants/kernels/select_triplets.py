"""Planted faults in the Triton kernels of select_triplets; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

COMMON = "_common.py"
SOURCE = "select_triplets.py"

FAULTS = [
    Fault("_draw_partners", "another shift", COMMON, "$bits = ($bits ^ ($bits >> 16)) * 0x21F0AAAD", "$bits = ($bits ^ ($bits >> 15)) * 0x21F0AAAD"),
    Fault("_draw_partners", "no last shift", COMMON, "    return $bits ^ ($bits >> 15)\n", "    return $bits\n"),
    Fault("_draw_partners", "half of the seed", COMMON, "$bits + tl.load($seed + 1).to(tl.uint32)", "$bits + tl.load($seed).to(tl.uint32)"),
    Fault("_draw_partners", "one stream", COMMON, " + STREAM * 0x9E3779B9", ""),
    Fault("_draw_partners", "classes are not checked", SOURCE, "$usable = (y >= 0) & (y < $classes) &", "$usable = (y >= 0) &"),
    Fault("_draw_partners", "modes are not checked", SOURCE, "& ($m >= 0) & ($m < $per_class)\n    $first", "& ($m >= 0)\n    $first"),
    Fault("_draw_partners", "classes are cut before they are checked", SOURCE, "y = tl.load($labels + $i.to(tl.int64) * $label_stride, mask=$inside, other=-1)", "y = tl.load($labels + $i.to(tl.int64) * $label_stride, mask=$inside, other=-1).to(tl.int32)"),
    Fault("_draw_partners", "modes are those of the classes", SOURCE, "$m = tl.load($modes + $i.to(tl.int64) * mode_stride", "$m = tl.load($modes + $i.to(tl.int64) * label_stride"),
    Fault("_draw_partners", "its own class is another", SOURCE, "$far += tl.where($far >= $first, $same, 0)", "$far += 0"),
    Fault("_draw_partners", "one number for both", SOURCE, "_below(random_bits($seed, 1, $i), $others)", "_below(random_bits($seed, 0, $i), $others)", quick=True),
]  # fmt: skip
