package kernel

import (
	"bytes"
	"os"
)

// MTUProbing reports whether the kernel's TCP looks for the MTU of paths that
// drop large segments without a word, in the caller's network namespace:
// sysctl net.ipv4.tcp_mtu_probing.
func MTUProbing() bool {
	value, err := os.ReadFile("/proc/sys/net/ipv4/tcp_mtu_probing")
	return err == nil && !bytes.Equal(bytes.TrimSpace(value), []byte("0"))
}
