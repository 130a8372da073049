package port

import "errors"

// OpenPacketSocket opens the uplink's AF_PACKET socket.
func OpenPacketSocket(ifindex int, filterFD int, mark uint32) (fd int, err error) {
	return -1, errors.ErrUnsupported
}

// OpenTAP makes a TAP interface.
func OpenTAP(name string) (fd int, ifname string, ifindex int, err error) {
	return -1, "", 0, errors.ErrUnsupported
}
