package wire

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"toehold/internal/frame"
	"toehold/internal/seqnum"
)

// learned is a template that has seen a sample, and what was seen.
func learned(t testing.TB, s sample) (*Template, *Packet) {
	t.Helper()
	_, _, p, v := s.parse()
	if v != OK {
		t.Fatalf("sample: %v", v)
	}
	tpl := new(Template)
	tpl.Set(&p)
	return tpl, &p
}

// whole is the frame that Build and the pieces make, in one buffer.
func whole(t testing.TB, tpl *Template, out *Out) (*frame.Buf, int) {
	t.Helper()
	buf := frame.NewPool(1 << 20).Get(MaxHeaders + int(out.Length))
	n := tpl.Build(buf.B, out)
	if n == 0 {
		t.Fatal("nothing was built")
	}
	for _, s := range out.Pieces[:out.NPieces] {
		n += copy(buf.B[n:], s.Bytes())
	}
	return buf, n
}

// finish does what the kernel does to a frame with a partial checksum.
func finish(b []byte) {
	var v VNet
	v.Get(b)
	part := b[VNetLen+int(v.CsumStart):]
	binary.BigEndian.PutUint16(part[v.CsumOffset:], ^slowSum(part))
	v.Flags = 0
	v.Put(b)
}

// pieces makes an Out of n octets in k pieces.
func pieces(n, k int) *Out {
	out := &Out{Segment: Segment{Seq: 0xfffffff0, Ack: 77, Flags: ACK, Window: 99}, Length: uint32(n)}
	buf := frame.NewPool(1 << 20).Get(max(n, 1))
	for i := range n {
		buf.B[i] = byte(i * 7)
	}
	for i, at := 0, 0; i < k; i++ {
		size := n/k + (i+1)/k*(n%k)
		out.Pieces[i] = frame.Span{Buf: buf, Off: uint32(at), Len: uint32(size)}
		at += size
	}
	out.NPieces = k
	return out
}

func TestBuildIsWhatParseReads(t *testing.T) {
	for _, shape := range shapes {
		for _, tt := range []struct {
			name string
			edit func(*Out)
			out  *Out
		}{
			{"pure ACK", func(o *Out) {}, pieces(0, 0)},
			{"one piece", func(o *Out) {}, pieces(1000, 1)},
			{"all pieces", func(o *Out) {}, pieces(1000, MaxPieces)},
			{"odd length", func(o *Out) {}, pieces(1001, 2)},
			{"timestamps", func(o *Out) { o.TSOK, o.TSVal, o.TSEcr = true, 5, 6 }, pieces(10, 1)},
			{"SACK", func(o *Out) { o.NSACK = 4; o.SACK[3] = seqnum.Range{Lo: 8, Hi: 9} }, pieces(0, 0)},
			{"SACK and timestamps", func(o *Out) {
				o.TSOK, o.TSVal, o.TSEcr, o.NSACK = true, 5, 6, 3
				o.SACK[0] = seqnum.Range{Lo: 0xffffffff, Hi: 1}
			}, pieces(0, 0)},
			{"super-segment", func(o *Out) { o.Size = 1448 }, pieces(60000, 2)},
			{"shorter than its size", func(o *Out) {}, pieces(1448, 1)},
			{"largest", func(o *Out) { o.Size, o.TSOK = 1448, true }, pieces(MaxSuper, 2)},
			{"flags", func(o *Out) { o.Flags = FIN | ACK | PSH | ECE }, pieces(3, 1)},
			{"not ECN-capable", func(o *Out) { o.ECN = NotECT }, pieces(0, 0)},
			{"ECN-capable", func(o *Out) { o.ECN = ECT0 }, pieces(1000, 1)},
			{"congestion experienced", func(o *Out) { o.ECN, o.Size = CE, 1448 }, pieces(60000, 2)},
			{"CWR on the first segment", func(o *Out) { o.Flags, o.Size = ACK|CWR, 100 }, pieces(300, 1)},
		} {
			t.Run(shape.name+"/"+tt.name, func(t *testing.T) {
				s := plain()
				shape.edit(&s)
				tpl, model := learned(t, s)
				tt.edit(tt.out)
				checkBuilt(t, tpl, model, tt.out)
			})
		}
	}
}

func checkBuilt(t *testing.T, tpl *Template, model *Packet, out *Out) {
	t.Helper()
	buf, n := whole(t, tpl, out)
	var p Packet
	if v := Parse(buf, n, linkLen(model), &p); v != OK {
		t.Fatalf("verdict %v", v)
	}
	if p.Key != model.Key || string(p.Link) != string(model.Link) || p.TTL != model.TTL ||
		p.TOS != model.TOS&^3|out.ECN || p.DF != model.DF || p.FlowLabel != model.FlowLabel {
		t.Errorf("headers %+v, want those of %+v", p, model)
	}
	want := out.Segment
	want.Payload = p.Seg.Payload
	if p.Seg != want {
		t.Errorf("segment %+v, want %+v", p.Seg, want)
	}
	if p.VNet.HdrLen != uint16(p.DataOff-VNetLen) || p.VNet.Flags != NeedsCsum {
		t.Errorf("offload header %+v", p.VNet)
	}
	if ip := buf.B[p.IPOff:p.TCPOff]; ip[0]>>4 == 4 && slowSum(ip) != 0xffff {
		t.Errorf("checksum of the IP header: % x", ip)
	}
	checkPayload(t, &p, out)
	finish(buf.B[:n])
	if p.VNet = (VNet{}); !VerifyChecksum(buf, n, &p) {
		t.Error("the finished checksum is wrong")
	}
}

func linkLen(p *Packet) int {
	if len(p.Link) == 0 {
		return 0
	}
	return EtherLen
}

func checkPayload(t *testing.T, p *Packet, out *Out) {
	t.Helper()
	var want []byte
	for _, s := range out.Pieces[:out.NPieces] {
		want = append(want, s.Bytes()...)
	}
	switch {
	case p.Seg.Payload.Len != out.Length || len(want) != int(out.Length):
		t.Errorf("payload of %d octets, want %d", p.Seg.Payload.Len, out.Length)
	case out.Length > 0 && string(p.Seg.Payload.Bytes()) != string(want):
		t.Error("the payload is another")
	}
}

func TestOffloadType(t *testing.T) {
	for _, tt := range []struct {
		v6    bool
		flags uint8
		size  uint16
		want  uint8
	}{
		{false, ACK, 0, GSONone},
		{false, ACK, 1000, GSONone},
		{false, ACK, 999, GSOTCPv4},
		{true, ACK, 999, GSOTCPv6},
		{true, ACK | CWR, 999, GSOTCPv6 | GSOECN},
	} {
		s := plain()
		s.v6 = tt.v6
		tpl, _ := learned(t, s)
		out := pieces(1000, 1)
		out.Flags, out.Size = tt.flags, tt.size
		buf, _ := whole(t, tpl, out)
		var v VNet
		v.Get(buf.B)
		if v.GSOType != tt.want || (v.GSOSize != 0) != (tt.want != GSONone) {
			t.Errorf("%+v: %+v", tt, v)
		}
	}
}

func TestIdentificationCountsSegments(t *testing.T) {
	tpl, p := learned(t, plain()) // one segment, 777
	ids := func(n int, size uint16) uint16 {
		out := pieces(n, 1)
		out.Size = size
		buf, _ := whole(t, tpl, out)
		return binary.BigEndian.Uint16(buf.B[p.IPOff+4:])
	}
	for i, want := range []uint16{778, 788, 798, 799} {
		n, size := 1000, uint16(100)
		if i == 2 {
			size = 0
		}
		if got := ids(n, size); got != want {
			t.Errorf("packet %d has identification %d, want %d", i, got, want)
		}
	}
	tpl.Set(p) // an old frame, seen again
	if got := ids(0, 0); got != 809 {
		t.Errorf("identification went to %d", got)
	}
	p.ID = 5000
	tpl.Set(p)
	if got := ids(0, 0); got != 5001 {
		t.Errorf("identification is %d after a packet with 5000", got)
	}
}

func TestBuildRefuses(t *testing.T) {
	tpl, _ := learned(t, plain())
	for _, tt := range []struct {
		name string
		tpl  *Template
		room int
		n    uint32
		want bool
	}{
		{"sound", tpl, MaxHeaders, 0, true},
		{"longest", tpl, MaxHeaders, MaxSuper, true},
		{"too long", tpl, MaxHeaders, MaxSuper + 1, false},
		{"no room", tpl, MaxHeaders - 1, 0, false},
		{"not learned", new(Template), MaxHeaders, 0, false},
	} {
		if n := tt.tpl.Build(make([]byte, tt.room), &Out{Length: tt.n}); (n > 0) != tt.want {
			t.Errorf("%s: %d octets", tt.name, n)
		}
	}
}

func TestTemplateFollowsItsDirection(t *testing.T) {
	tpl, p := learned(t, plain())
	if !tpl.Ready() || tpl.Key() != p.Key || new(Template).Ready() {
		t.Errorf("ready %v for %v", tpl.Ready(), tpl.Key().ID())
	}
	p.Link = []byte("another header")
	p.TTL, p.TOS = 9, 0xff
	tpl.Set(p)
	out := pieces(0, 0)
	out.ECN = ECT0
	buf, n := whole(t, tpl, out)
	var got Packet
	Parse(buf, n, 0, &got)
	if string(buf.B[VNetLen:VNetLen+14]) != "another header" || buf.B[p.IPOff+8] != 9 || buf.B[p.IPOff+1] != 0xfe {
		t.Errorf("built % x", buf.B[:n])
	}
	tpl.SetLink(nil)
	tpl.SetLink(make([]byte, MaxLink+1)) // not taken
	buf, n = whole(t, tpl, pieces(0, 0))
	if v := Parse(buf, n, 0, &got); v != OK || len(got.Link) != 0 {
		t.Errorf("%v with a link header of %d octets", v, len(got.Link))
	}
}

func TestRelink(t *testing.T) {
	ether := plain().bytes()[VNetLen:][:EtherLen]
	for _, from := range shapes {
		for _, link := range [][]byte{nil, ether} {
			for _, vnet := range []VNet{{}, {Flags: NeedsCsum, CsumOffset: 16, HdrLen: 200, GSOSize: 1}} {
				s := plain()
				from.edit(&s)
				if vnet.Flags != 0 {
					vnet.CsumStart = uint16(s.headers())
				}
				s.vnet = vnet
				checkRelink(t, from.name, s, link)
			}
		}
	}
}

// headers is the length of the link and IP headers.
func (s sample) headers() int {
	n := 20
	if s.v6 {
		n = 40
	}
	if s.ether {
		n += EtherLen + TagLen*len(s.tags)
	}
	return n
}

func checkRelink(t *testing.T, name string, s sample, link []byte) {
	t.Helper()
	buf, _, p, v := s.parse()
	if v != OK {
		t.Fatalf("%s: %v", name, v)
	}
	if s.v6 && link != nil {
		link = append(append([]byte{}, link[:12]...), 0x86, 0xdd)
	}
	var b [MaxHeaders]byte
	n, rest := p.Relink(b[:], buf, link)
	moved := buffer(append(b[:n:n], rest.Bytes()...))
	var got Packet
	if v := Parse(moved, n+int(rest.Len), len(link), &got); v != OK {
		t.Fatalf("%s: moved frame is %v", name, v)
	}
	if got.Key != p.Key || got.Seg.Seq != p.Seg.Seq || got.Seg.Payload.Len != p.Seg.Payload.Len ||
		string(got.Link) != string(link) || !VerifyChecksum(moved, n+int(rest.Len), &got) {
		t.Errorf("%s: moved frame is %+v", name, got)
	}
	if p.VNet.HdrLen != 0 && int(got.VNet.HdrLen) != got.DataOff-VNetLen {
		t.Errorf("%s: headers of %d octets", name, got.VNet.HdrLen)
	}
}

func TestRelinkRefuses(t *testing.T) {
	buf, _, p, _ := plain().parse()
	if n, _ := p.Relink(make([]byte, MaxHeaders-1), buf, nil); n != 0 {
		t.Error("relinked without room")
	}
	if n, _ := p.Relink(make([]byte, MaxHeaders), buf, make([]byte, MaxLink+1)); n != 0 {
		t.Error("relinked to a longer header than there is")
	}
}

func TestNothingAllocates(t *testing.T) {
	s := plain()
	s.options = []byte{1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9}
	buf, n, p, _ := s.parse()
	tpl, out, dst := new(Template), pieces(60000, 2), make([]byte, MaxHeaders)
	out.Size, out.TSOK = 1448, true
	if a := testing.AllocsPerRun(100, func() {
		Parse(buf, n, EtherLen, &p)
		VerifyChecksum(buf, n, &p)
		tpl.Set(&p)
		tpl.Build(dst, out)
		p.Relink(dst, buf, nil)
	}); a != 0 {
		t.Errorf("%v allocations", a)
	}
}

func TestVNetRoundTrip(t *testing.T) {
	for range 100 {
		v := VNet{uint8(rand.Uint32()), uint8(rand.Uint32()), uint16(rand.Uint32()),
			uint16(rand.Uint32()), uint16(rand.Uint32()), uint16(rand.Uint32())}
		var b [VNetLen]byte
		var got VNet
		v.Put(b[:])
		if got.Get(b[:]); got != v {
			t.Fatalf("%+v became %+v", v, got)
		}
	}
}
