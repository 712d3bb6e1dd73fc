"""Kernels are counted in optimised HLO as a GPU would start them."""

from benchmarks.kernels import Kernel, kernels_of

MODULE = """HloModule jit_step, is_scheduled=true

%body (p: (s32[], f32[5,7])) -> (s32[], f32[5,7]) {
  %p = (s32[], f32[5,7]) parameter(0)
  %x = f32[5,7]{1,0} get-tuple-element(%p), index=1
  %y = f32[5,7]{1,0} fusion(%x), kind=kLoop, calls=%add
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %both = (s32[], f32[5,7]{1,0}) tuple(%i, %y)
}

%add (q: f32[5,7]) -> f32[5,7] {
  %q = f32[5,7]{1,0} parameter(0)
  ROOT %sum = f32[5,7]{1,0} add(%q, %q)
}

ENTRY %main (a: bf16[3,11], b: (s32[], f32[5,7])) -> bf16[3,13] {
  %a = bf16[3,11]{1,0} parameter(0)
  %b = (s32[], f32[5,7]) parameter(1)
  %loop = (s32[], f32[5,7]) while(%b), condition=%c, body=%body, \
backend_config={"known_trip_count":{"n":"4"}}
  %start = ((bf16[3,11]), bf16[3,11]{1,0}, s32[]) fusion-start(%a), kind=kLoop, calls=%add
  %done = bf16[3,11]{1,0} fusion-done(%start)
  ROOT %cudnn.1 = (bf16[3,13]{1,0}, u8[0]{0}) custom-call(%done), \
custom_call_target="__cudnn$convForward"
}
"""


def test_loops_count_as_often_as_they_run_and_what_starts_nothing_does_not():
    assert kernels_of(MODULE) == [
        Kernel("y", "fusion", 4, 2 * 4 * 5 * 7),
        Kernel("start", "fusion-start", 1, 3 * 2 * 3 * 11 + 4),
        Kernel("cudnn.1", "custom-call", 1, 2 * 3 * 11 + 2 * 3 * 13),
    ]
