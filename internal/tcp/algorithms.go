package tcp

import "slices"

// Algorithms are the names of the congestion controls that Supports reports,
// in order.
func Algorithms() (names []string) {
	for name := range algorithms {
		if Supports(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
