package proxy

import (
	"bytes"
	"fmt"
	"net"
	"sync"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// BenchmarkBehindAPrefix has 50 clients send SET and GET in turn to the target, whose keys
// have a prefix, or none.
func BenchmarkBehindAPrefix(b *testing.B) {
	for _, depth := range []int{1, 16} {
		for _, with := range []string{"", "c0:"} {
			b.Run(fmt.Sprintf("depth=%d/prefix=%q", depth, with), func(b *testing.B) {
				m, err := router.NewDBMap(map[int]router.Place{0: {DB: 0, Prefix: with}})
				if err != nil {
					b.Fatal(err)
				}
				w := newWorldMapped(b, redistest.Start(b), redistest.Start(b), router.Route{Side: router.Target, Epoch: 1, Map: m})
				load(b, w.proxy.Addr().String(), 50, depth)
			})
		}
	}
}

// load has clients send b.N commands, in pipelines of a depth.
func load(b *testing.B, addr string, clients, depth int) {
	var wg sync.WaitGroup
	each := b.N/clients + 1
	ready := make(chan struct{})
	for i := range clients {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		key := fmt.Appendf(nil, "key:%012d", i)
		set, get := wireOf([]byte("SET"), key, []byte("xxx")), wireOf([]byte("GET"), key)
		wg.Go(func() {
			<-ready
			buf := make([]byte, 64<<10)
			for sent := 0; sent < each; sent += depth {
				wire, want := set, 5
				if sent/depth%2 == 1 {
					wire, want = get, 9
				}
				if _, err := conn.Write(bytes.Repeat(wire, depth)); err != nil {
					b.Error(err)
					return
				}
				for left := want * depth; left > 0; {
					n, err := conn.Read(buf)
					if err != nil {
						b.Error(err)
						return
					}
					left -= n
				}
			}
		})
	}
	b.ResetTimer()
	close(ready)
	wg.Wait()
}
