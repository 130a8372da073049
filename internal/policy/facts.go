package policy

import (
	"net/netip"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"toehold/internal/abi"
)

// Facts are what a policy can know of a connection. What is not known is zero.
type Facts struct {
	Local, Remote   netip.AddrPort
	Interface       string
	Process         string
	Executable      string
	UID             uint32
	Cgroup          string
	NetNS           uint32
	Mark            uint32
	DSCP            uint8
	Congestion      string
	Place           string
	BytesSent       uint64
	BytesReceived   uint64
	Rate            uint64
	RTT             time.Duration
	Retransmissions float64
	Age             time.Duration
	Idle            time.Duration
	SmallIO         float64
	Offloads        int
}

// A Fact is one of them as a condition names it.
type Fact struct {
	Name string
	Doc  string
	Type *cel.Type
	get  func(*Facts) ref.Val
	// field is what the kernel can know of it at establishment, FieldAlways:
	// nothing.
	field abi.PolicyField
}

// AllFacts are the facts in the order of the documentation.
var AllFacts = []Fact{
	{"local.addr", "address of this host, without a zone, IPv4 never as IPv6", cel.StringType, func(f *Facts) ref.Val { return addr(f.Local) }, abi.FieldLocalAddr},
	{"local.port", "port of this host", cel.IntType, func(f *Facts) ref.Val { return types.Int(f.Local.Port()) }, abi.FieldLocalPort},
	{"remote.addr", "address of the peer", cel.StringType, func(f *Facts) ref.Val { return addr(f.Remote) }, abi.FieldRemoteAddr},
	{"remote.port", "port of the peer", cel.IntType, func(f *Facts) ref.Val { return types.Int(f.Remote.Port()) }, abi.FieldRemotePort},
	{"local", "this host's end, for `within`", endType, func(f *Facts) ref.Val { return end{f.Local.Addr()} }, abi.FieldLocalAddr},
	{"remote", "the peer's end, for `within`", endType, func(f *Facts) ref.Val { return end{f.Remote.Addr()} }, abi.FieldRemoteAddr},
	{"interface", "name of the interface that its packets leave by", cel.StringType, func(f *Facts) ref.Val { return types.String(f.Interface) }, abi.FieldInterface},
	{"process", "name of the process that holds the socket, as in /proc/PID/comm: at most 15 octets", cel.StringType, func(f *Facts) ref.Val { return types.String(f.Process) }, abi.FieldComm},
	{"executable", "path of its program file", cel.StringType, func(f *Facts) ref.Val { return types.String(f.Executable) }, 0},
	{"uid", "user that the socket belongs to", cel.IntType, func(f *Facts) ref.Val { return types.Int(f.UID) }, abi.FieldUID},
	{"cgroup", "path of its cgroup (v2) below the mount point, such as /system.slice/nginx.service", cel.StringType, func(f *Facts) ref.Val { return types.String(f.Cgroup) }, abi.FieldCgroup},
	{"netns", "inode of the network namespace, as in /proc/PID/ns/net", cel.IntType, func(f *Facts) ref.Val { return types.Int(f.NetNS) }, abi.FieldNetNS},
	{"mark", "mark of the socket, SO_MARK", cel.IntType, func(f *Facts) ref.Val { return types.Int(f.Mark) }, abi.FieldMark},
	{"dscp", "differentiated services code point that the socket sends with, 0 to 63", cel.IntType, func(f *Facts) ref.Val { return types.Int(f.DSCP) }, 0},
	{"congestion", "name of the socket's congestion control", cel.StringType, func(f *Facts) ref.Val { return types.String(f.Congestion) }, abi.FieldCongestion},
	{"place", "where the connection is: kernel or device", cel.StringType, func(f *Facts) ref.Val { return types.String(f.Place) }, 0},
	{"bytes_sent", "octets that the peer has acknowledged", cel.IntType, func(f *Facts) ref.Val { return number(f.BytesSent) }, 0},
	{"bytes_received", "octets received in order", cel.IntType, func(f *Facts) ref.Val { return number(f.BytesReceived) }, 0},
	{"rate", "octets a second, both ways, over the last few seconds", cel.IntType, func(f *Facts) ref.Val { return number(f.Rate) }, 0},
	{"rtt", "smoothed round-trip time", cel.DurationType, func(f *Facts) ref.Val { return types.Duration{Duration: f.RTT} }, 0},
	{"retransmissions", "share of the segments sent that were retransmissions, 0.0 to 1.0", cel.DoubleType, func(f *Facts) ref.Val { return types.Double(f.Retransmissions) }, 0},
	{"age", "time since the connection was first seen by the daemon", cel.DurationType, func(f *Facts) ref.Val { return types.Duration{Duration: f.Age} }, 0},
	{"idle", "time since data was last sent or received", cel.DurationType, func(f *Facts) ref.Val { return types.Duration{Duration: f.Idle} }, 0},
	{"small_io", "how small the segments with data are: 1.0 less their mean payload divided by the MSS", cel.DoubleType, func(f *Facts) ref.Val { return types.Double(f.SmallIO) }, 0},
	{"offloads", "times that the connection has been offloaded", cel.IntType, func(f *Facts) ref.Val { return types.Int(f.Offloads) }, 0},
}

// factsByName finds a fact. It is written once.
var factsByName = func() map[string]*Fact {
	all := make(map[string]*Fact, len(AllFacts))
	for i := range AllFacts {
		all[AllFacts[i].Name] = &AllFacts[i]
	}
	return all
}()

func addr(a netip.AddrPort) ref.Val {
	if !a.IsValid() {
		return types.String("")
	}
	return types.String(a.Addr().String())
}

// number is a counter as CEL has it: none of ours comes near 2^63.
func number(n uint64) ref.Val { return types.Int(min(n, 1<<63-1)) }

// An activation lets a condition read facts.
type activation struct{ facts *Facts }

// ResolveName returns the value of a fact.
func (a activation) ResolveName(name string) (any, bool) {
	f := factsByName[name]
	if f == nil {
		return nil, false
	}
	return f.get(a.facts), true
}

// Parent is none.
func (a activation) Parent() cel.Activation { return nil }
