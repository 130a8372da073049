package wire

import (
	"fmt"
	"strings"
	"testing"
)

var benchTimestamps = []byte{1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9}

func benchShapes(b *testing.B, run func(*testing.B, sample)) {
	for _, tt := range shapes[:4] {
		b.Run(tt.name, func(b *testing.B) {
			s := plain()
			s.options = benchTimestamps
			tt.edit(&s)
			b.ReportAllocs()
			run(b, s)
		})
	}
}

func BenchmarkParse(b *testing.B) {
	benchShapes(b, func(b *testing.B, s sample) {
		buf, n, p, _ := s.parse()
		for b.Loop() {
			Parse(buf, n, EtherLen, &p)
		}
	})
}

func BenchmarkParseSACK(b *testing.B) {
	s := plain()
	s.options = append(append([]byte{}, benchTimestamps...), 1, 1, 5, 18,
		0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4)
	buf, n, p, _ := s.parse()
	for b.Loop() {
		Parse(buf, n, EtherLen, &p)
	}
}

func BenchmarkBuild(b *testing.B) {
	benchShapes(b, func(b *testing.B, s sample) {
		tpl, _ := learned(b, s)
		out, dst := pieces(60000, 2), make([]byte, MaxHeaders)
		out.Size, out.TSOK = 1448, true
		for b.Loop() {
			tpl.Build(dst, out)
		}
	})
}

func BenchmarkVerifyChecksum(b *testing.B) {
	for _, size := range []int{64, 1448, 60000} {
		s := plain()
		s.payload = strings.Repeat("x", size)
		buf, n, p, _ := s.parse()
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				VerifyChecksum(buf, n, &p)
			}
		})
	}
}
