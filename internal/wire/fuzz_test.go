package wire

import (
	"testing"

	"toehold/internal/frame"
	"toehold/internal/seqnum"
)

// FuzzParse: nothing from a wire or a virtio_net_hdr may panic or lead
// outside of the frame.
func FuzzParse(f *testing.F) {
	for _, tt := range shapes {
		s := plain()
		tt.edit(&s)
		f.Add(s.bytes(), s.ether)
	}
	f.Fuzz(func(t *testing.T, b []byte, ether bool) {
		linkLen := 0
		if ether {
			linkLen = EtherLen
		}
		if len(b) > frame.Large {
			return
		}
		buf := buffer(b)
		var p Packet
		if Parse(buf, len(b), linkLen, &p) != OK {
			return
		}
		checkBounds(t, &p, len(b))
		VerifyChecksum(buf, len(b), &p)
		again(t, &p, buf)
	})
}

func checkBounds(t *testing.T, p *Packet, n int) {
	t.Helper()
	if p.IPOff > p.TCPOff || p.TCPOff+20 > p.DataOff || p.DataOff > p.End || p.End > n {
		t.Fatalf("offsets %d %d %d %d in %d octets", p.IPOff, p.TCPOff, p.DataOff, p.End, n)
	}
	s := &p.Seg
	if int(s.Payload.Len) != p.End-p.DataOff || s.NSACK > len(s.SACK) || s.Size != 0 && uint32(s.Size) >= s.Payload.Len {
		t.Fatalf("segment %+v", s)
	}
}

// again checks that what Parse read, Build writes so that Parse reads the
// same, except for options that a frame of ours never has.
func again(t *testing.T, p *Packet, buf *frame.Buf) {
	t.Helper()
	if p.Seg.TSOK && p.Seg.NSACK > 3 || p.Seg.Payload.Len > MaxSuper {
		return
	}
	tpl := new(Template)
	tpl.Set(p)
	out := &Out{Segment: p.Seg, Length: p.Seg.Payload.Len}
	out.Payload = frame.Span{}
	if out.Length > 0 {
		out.Pieces[0], out.NPieces = p.Seg.Payload, 1
	}
	built, n := whole(t, tpl, out)
	var q Packet
	if v := Parse(built, n, linkLen(p), &q); v != OK {
		t.Fatalf("built frame is %v", v)
	}
	a, b := p.Seg, q.Seg
	for i := a.NSACK; i < len(a.SACK); i++ {
		a.SACK[i], b.SACK[i] = seqnum.Range{}, seqnum.Range{}
	}
	a.Payload, b.Payload = frame.Span{}, frame.Span{}
	if a != b || p.Key != q.Key || p.TTL != q.TTL || p.FlowLabel != q.FlowLabel || string(p.Link) != string(q.Link) {
		t.Fatalf("read %+v\nbuilt %+v", p, q)
	}
	if out.Length > 0 && string(p.Seg.Payload.Bytes()) != string(q.Seg.Payload.Bytes()) {
		t.Fatal("the payload is another")
	}
}

// FuzzBuild: whatever an engine asks for, the frame's checksum comes out
// right once the kernel has finished it.
func FuzzBuild(f *testing.F) {
	f.Add(uint8(0), uint16(1000), uint16(0), uint8(ACK), uint8(0), true)
	f.Add(uint8(5), uint16(60000), uint16(1448), uint8(ACK|PSH), uint8(3), true)
	f.Add(uint8(7), uint16(65535), uint16(1), uint8(CWR), uint8(200), false)
	f.Fuzz(func(t *testing.T, shape uint8, length, size uint16, flags, nsack uint8, ts bool) {
		s := plain()
		shapes[int(shape)%len(shapes)].edit(&s)
		tpl, model := learned(t, s)
		out := pieces(min(int(length), MaxSuper), 1)
		out.Size, out.Flags, out.NSACK, out.TSOK = size, flags, int(nsack), ts
		if out.Size == 0 && out.Length == 0 {
			out.NPieces = 0
		}
		buf, n := whole(t, tpl, out)
		var p Packet
		if v := Parse(buf, n, linkLen(model), &p); v != OK {
			t.Fatalf("verdict %v", v)
		}
		finish(buf.B[:n])
		if p.VNet = (VNet{}); !VerifyChecksum(buf, n, &p) {
			t.Fatal("wrong checksum")
		}
	})
}
