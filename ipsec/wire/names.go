package wire

import "strconv"

// nameOf returns the registered name of a protocol number, or the type and
// the number for one that is not known here.
func nameOf[T ~uint8 | ~uint16](names map[T]string, v T, kind string) string {
	if s, ok := names[v]; ok {
		return s
	}
	return kind + "(" + strconv.Itoa(int(v)) + ")"
}
