//go:build !amd64

package freeze

// supported: where the kernel has undone a call before a tracer sees the thread
// (arm64 does), its first argument is lost and it cannot be put back.
const supported = false

func putBack(pid, tid int) error { return ErrUnsupported }
