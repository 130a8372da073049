package bpf

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/policy"
)

func TestPolicyLayoutsAgree(t *testing.T) {
	spec, err := loadSockopt()
	if err != nil {
		t.Fatal(err)
	}
	for name, g := range map[string]reflect.Type{
		"policy_table": reflect.TypeFor[abi.PolicyTable](), "policy_term": reflect.TypeFor[abi.PolicyTerm](),
	} {
		var c *btf.Struct
		if err := spec.Types.TypeByName(name, &c); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for i, m := range c.Members {
			if f := g.Field(i); uintptr(m.Offset.Bytes()) != f.Offset || uintptr(c.Size) != g.Size() {
				t.Errorf("%s.%s is at %d of %d octets, %s at %d of %d", name, m.Name, m.Offset.Bytes(), c.Size, f.Name, f.Offset, g.Size())
			}
		}
	}
}

// factsOf is what can be known of a connection of this process, by other ways
// than the program's: the socket's options, and the test's own knowledge.
func (e *seated) factsOf(c net.Conn) *abi.PolicyFacts {
	e.t.Helper()
	f := &abi.PolicyFacts{Known: 1 << abi.FieldAlways}
	number := func(field abi.PolicyField, n uint64) {
		binary.BigEndian.PutUint64(f.Fact[field][8:], n)
		f.Known |= 1 << field
	}
	address := func(field abi.PolicyField, a netip.Addr) {
		f.Fact[field] = a.As16()
		f.Known |= 1 << field
	}
	local, remote := c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()
	address(abi.FieldLocalAddr, local.Addr())
	address(abi.FieldRemoteAddr, remote.Addr())
	number(abi.FieldLocalPort, uint64(local.Port()))
	number(abi.FieldRemotePort, uint64(remote.Port()))
	e.must(e.Host.Do(func() error {
		i, err := net.InterfaceByName(e.HostIf)
		if err != nil {
			return err
		}
		number(abi.FieldInterface, uint64(i.Index))
		var s unix.Stat_t
		err = unix.Stat("/proc/thread-self/ns/net", &s)
		number(abi.FieldNetNS, s.Ino)
		return err
	}))
	control(e.t, c.(*net.TCPConn), func(fd int) error {
		mark, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK)
		number(abi.FieldMark, uint64(mark))
		return err
	})
	number(abi.FieldUID, 0)
	copy(f.Fact[abi.FieldCongestion][:], "cubic")
	f.Known |= 1 << abi.FieldCongestion
	return f
}

// aTerm is about a field whose fact it may hit, just miss, or have on its
// border. What only the kernel knows here, the cgroup, and what nobody does,
// the process, it takes for granted or leaves open.
func aTerm(r *rand.Rand, f *abi.PolicyFacts) abi.PolicyTerm {
	fields := []abi.PolicyField{abi.FieldAlways, abi.FieldLocalAddr, abi.FieldRemoteAddr, abi.FieldLocalPort, abi.FieldRemotePort,
		abi.FieldInterface, abi.FieldUID, abi.FieldMark, abi.FieldNetNS, abi.FieldCongestion, abi.FieldComm, abi.PolicyFields}
	t := abi.PolicyTerm{Field: fields[r.IntN(len(fields))], Flags: uint8(r.IntN(2))}
	if t.Field < abi.PolicyFields {
		t.Low, t.High = f.Fact[t.Field], f.Fact[t.Field]
	}
	if r.IntN(3) == 0 {
		t.Low = step(t.Low, r.IntN(16), 1)
	}
	if r.IntN(3) == 0 {
		t.High = step(t.High, r.IntN(16), -1)
	}
	switch r.IntN(4) {
	case 0:
		t.Low = [16]byte{}
	case 1:
		t.High = step([16]byte{}, 15, -1)
	}
	return t
}

// step adds n at an octet, with carry into those before it.
func step(v [16]byte, at, n int) [16]byte {
	for ; at >= 0; at-- {
		sum := int(v[at]) + n
		v[at] = byte(sum)
		if sum >= 0 && sum <= 255 {
			break
		}
	}
	return v
}

func aTable(r *rand.Rand, f *abi.PolicyFacts) *abi.PolicyTable {
	t := &abi.PolicyTable{Serial: 1, Count: uint32(1 + r.IntN(20))}
	if r.IntN(10) == 0 {
		t.Count = abi.MaxPolicyTerms
	}
	for i := range t.Terms[:t.Count] {
		t.Terms[i] = aTerm(r, f)
		if r.IntN(2) == 0 {
			t.Terms[i].Verdict, t.Terms[i].Rule = abi.VerdictNever+abi.Verdict(r.IntN(3)), uint16(i)
		}
	}
	return t
}

// The program and its twin in Go agree about real connections, opened from
// here and from there, by IPv4 and IPv6, under tables at random.
func TestJudgeAgreesWithItsTwin(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	e := newSeated(t)
	verdicts := map[abi.Verdict]int{}
	for i := range 60 {
		address := e.HostIP4
		if i%2 == 1 {
			address = e.HostIP6
		}
		from, to := e.Host, e.Peer
		if i%4 < 2 { // the host's is the passive end
			from, to = to, from
		} else if address == e.HostIP4 {
			address = e.PeerIP4
		} else {
			address = e.PeerIP6
		}
		// The table is made for a connection like the one that follows.
		sample, other := connect(t, to, from, address)
		if i%4 >= 2 {
			sample = other
		}
		table := aTable(r, e.factsOf(sample))
		e.must(e.options.SetPolicy(table))
		c, other := connect(t, to, from, address)
		if i%4 >= 2 {
			c = other
		}
		e.key = keyOf(c)
		verdict, rule := policy.Judge(table, e.factsOf(c))
		want := Seat{Verdict: verdict, Rule: rule}
		if verdict == abi.VerdictLater {
			want = Seat{} // nothing is done
		}
		if got := e.seat(Order{}); got != want {
			t.Fatalf("seed %d, connection %d %v: the program says %v, its twin %v, %d: %+v", seed, i, e.key.ID(), got, verdict, rule, table.Terms[:table.Count])
		}
		verdicts[verdict]++
	}
	if len(verdicts) != 3 {
		t.Errorf("seed %d: not every verdict was tried: %v", seed, verdicts)
	}
}

// always is a policy that comes to the same for every connection.
func always(v abi.Verdict) *abi.PolicyTable {
	t := &abi.PolicyTable{Serial: 1, Count: 1}
	t.Terms[0] = abi.PolicyTerm{Field: abi.FieldAlways, Verdict: v, Rule: 7}
	return t
}

// A verdict of now wakes the driver, for connections of its namespace; no
// policy is no verdict.
func TestVerdicts(t *testing.T) {
	e := newSeated(t)
	judged := func() Seat {
		t.Helper()
		e.s, e.peer = connect(t, e.Host, e.Peer, e.HostIP4)
		e.key = keyOf(e.s)
		return e.seat(Order{})
	}
	for _, v := range []abi.Verdict{abi.VerdictNever, abi.VerdictLater} {
		e.must(e.options.SetPolicy(always(v)))
		want := Seat{Verdict: v, Rule: 7}
		if v == abi.VerdictLater {
			want = Seat{}
		}
		if got := judged(); got != want || e.options.wakes.AvailableBytes() != 0 {
			t.Errorf("%v: %+v", v, got)
		}
	}
	e.must(e.options.SetPolicy(always(abi.VerdictNow)))
	if got := judged(); got.Verdict != abi.VerdictNow {
		t.Errorf("now: %+v", got)
	}
	if got, err := e.options.Wakes(nil); err != nil || !reflect.DeepEqual(got, []Wake{{Flow: e.key, Verdict: uint32(abi.VerdictNow)}}) {
		t.Errorf("%+v, %v", got, err)
	}
	e.must(e.options.SetPolicy(new(abi.PolicyTable)))
	if got := judged(); got != (Seat{}) || e.options.wakes.AvailableBytes() != 0 {
		t.Errorf("without a policy: %+v", got)
	}
}

// cgroup is the id of this process's cgroup (v2): its directory's inode.
func (e *seated) cgroup() uint64 {
	e.t.Helper()
	text, err := os.ReadFile("/proc/self/cgroup")
	e.must(err)
	_, path, found := strings.Cut(string(text), "0::/")
	if !found {
		e.t.Fatalf("no cgroup v2 in %q", text)
	}
	path, _, _ = strings.Cut(path, "\n")
	root, err := cgroupRoot()
	e.must(err)
	defer root.Close()
	var s unix.Stat_t
	e.must(unix.Fstatat(int(root.Fd()), "./"+path, &s, 0))
	return s.Ino
}

// The cgroup of a connection is its socket's. What the process is called is
// not known.
func TestJudgeOfCgroup(t *testing.T) {
	e := newSeated(t)
	own := e.cgroup()
	table := always(abi.VerdictNever)
	term := &table.Terms[0]
	term.Field = abi.FieldCgroup
	for id, want := range map[uint64]abi.Verdict{own: abi.VerdictNever, own + 1: 0} {
		binary.BigEndian.PutUint64(term.Low[8:], id)
		binary.BigEndian.PutUint64(term.High[8:], id)
		e.must(e.options.SetPolicy(table))
		s, _ := connect(t, e.Host, e.Peer, e.HostIP4)
		e.key = keyOf(s)
		if got := e.seat(Order{}); got.Verdict != want {
			t.Errorf("own cgroup %d, asked for %d: %+v", own, id, got)
		}
	}
	term.Field = abi.FieldComm
	e.must(e.options.SetPolicy(table))
	s2, _ := connect(t, e.Host, e.Peer, e.HostIP4)
	e.key = keyOf(s2)
	if got := e.seat(Order{}); got != (Seat{}) {
		t.Errorf("the process: %+v", got)
	}
}
