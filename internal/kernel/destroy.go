package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"toehold/internal/flow"
)

// Destroy ends the socket of a connection, whoever has it: its program gets
// ECONNABORTED (tcp_abort). It is no error if there is none.
func Destroy(id flow.ID) error {
	req := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
	req.AddRawData(diagRequest(id))
	if _, err := req.Execute(unix.NETLINK_SOCK_DIAG, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("SOCK_DESTROY of %v: %w", id, err)
	}
	return nil
}

// diagRequest is struct inet_diag_req_v2 of one socket, by its addresses.
func diagRequest(id flow.ID) []byte {
	family := byte(unix.AF_INET)
	if id.Local.Addr().Is6() {
		family = unix.AF_INET6
	}
	b := make([]byte, 56)
	b[0], b[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], ^uint32(0)) // states
	binary.BigEndian.PutUint16(b[8:], id.Local.Port())
	binary.BigEndian.PutUint16(b[10:], id.Remote.Port())
	copy(b[12:28], id.Local.Addr().AsSlice())
	copy(b[28:44], id.Remote.Addr().AsSlice())
	for i := 48; i < 56; i++ {
		b[i] = 0xff // INET_DIAG_NOCOOKIE
	}
	return b
}

// Abort ends a connection in whatever state its socket is: its program gets
// ECONNRESET or ECONNABORTED (tcp_disconnect).
func Abort(fd int) error {
	// Where repair mode is off this is no error; a closed socket may not enter it.
	err := setTCP(fd, unix.TCP_REPAIR, unix.TCP_REPAIR_OFF_NO_WP)
	return errors.Join(err, disconnect(fd))
}
