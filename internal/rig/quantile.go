package rig

import "slices"

// Quantile is the smallest of the values that at least the share q (0 to 1)
// of them do not exceed; 0 when there are none. It sorts them.
func Quantile[T ~int64 | ~float64](values []T, q float64) T {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	i := int(q*float64(len(values)) + 0.999999) // rounded up
	return values[min(max(i, 1), len(values))-1]
}
