package kernel

import (
	"testing"

	"toehold/internal/testnet"
)

// One socket with empty queues, step by step.
func BenchmarkRebuild(b *testing.B) {
	n := testnet.New(b)
	for _, k := range []kind{kinds[0], kinds[1]} {
		b.Run(k.name, func(b *testing.B) {
			p := newPair(b, n, k)
			carries(b, p.s, p.peer, noise(1000, 1))
			settled(b, p)
			in(b, n.Host, func() error {
				for b.Loop() {
					r, err := Salvage(p.fd, p.id)
					if err != nil {
						return err
					}
					if err := Restore(p.fd, r); err != nil {
						return err
					}
					if err := Finish(p.fd, r, false); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	b.Run("2 MiB unread, 2 MiB sent", func(b *testing.B) {
		p := newPair(b, n, kinds[0])
		cut(b, n)
		r := salvaged(b, p.fd, p.id)
		r.Unread, r.Sent = pieces(noise(2<<20, 2)), pieces(noise(2<<20, 3))
		in(b, n.Host, func() error {
			for b.Loop() {
				if err := Restore(p.fd, r); err != nil {
					return err
				}
				if err := Finish(p.fd, r, false); err != nil {
					return err
				}
			}
			return nil
		})
	})
	b.Run("salvage alone", func(b *testing.B) {
		p := newPair(b, n, kinds[0])
		for b.Loop() {
			if _, err := Salvage(p.fd, p.id); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkOpenChannel(b *testing.B) {
	n := testnet.New(b)
	in(b, n.Host, func() error {
		for b.Loop() {
			fd, err := OpenChannel()
			if err == nil {
				err = CloseChannel(fd)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}
