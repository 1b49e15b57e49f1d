#include "textflag.h"

// func addBlocksAVX2(p *byte, n int) uint64
//
// Each 64-bit lane of an accumulator takes one 32-bit word per step, so that it
// cannot overflow below 2^32 steps. Low and high words have accumulators of
// their own, which keeps the chains of additions short.
TEXT ·addBlocksAVX2(SB), NOSPLIT, $0-24
	MOVQ     p+0(FP), SI
	MOVQ     n+8(FP), CX
	VPXOR    Y0, Y0, Y0
	VPXOR    Y1, Y1, Y1
	VPXOR    Y6, Y6, Y6
	VPXOR    Y7, Y7, Y7
	VPCMPEQD Y15, Y15, Y15
	VPSRLQ   $32, Y15, Y15

loop:
	CMPQ    CX, $64
	JL      done
	VMOVDQU (SI), Y2
	VMOVDQU 32(SI), Y3
	VPAND   Y15, Y2, Y4
	VPSRLQ  $32, Y2, Y5
	VPADDQ  Y4, Y0, Y0
	VPADDQ  Y5, Y1, Y1
	VPAND   Y15, Y3, Y4
	VPSRLQ  $32, Y3, Y5
	VPADDQ  Y4, Y6, Y6
	VPADDQ  Y5, Y7, Y7
	ADDQ    $64, SI
	SUBQ    $64, CX
	JMP     loop

done:
	VPADDQ       Y1, Y0, Y0
	VPADDQ       Y7, Y6, Y6
	VPADDQ       Y6, Y0, Y0
	VEXTRACTI128 $1, Y0, X1
	VPADDQ       X1, X0, X0
	VPSHUFD      $0x4e, X0, X1
	VPADDQ       X1, X0, X0
	VMOVQ        X0, AX
	VZEROUPPER
	MOVQ         AX, ret+16(FP)
	RET
