package proxy

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
)

// TestBacklogSaysWhatMemoryItTakes: a few bytes cost a chunk.
func TestBacklogSaysWhatMemoryItTakes(t *testing.T) {
	var g guest
	g.out.add([]byte("few"))
	if got := g.holds(); got != chunkSize {
		t.Errorf("%d bytes are counted, %d are held", got, chunkSize)
	}
}

func TestBacklogKeepsEveryByteInOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var in, out bytes.Buffer
	var b backlog
	write := func(p []byte) (int, error) {
		n := rng.IntN(len(p) + 1)
		out.Write(p[:n])
		return n, nil
	}
	for range 2000 {
		p := make([]byte, rng.IntN(3*chunkSize/2))
		for i := range p {
			p[i] = byte(rng.Uint32())
		}
		if rng.IntN(2) == 0 {
			p = p[:len(p)%100]
		}
		in.Write(p)
		b.add(p)
		if _, err := b.drain(write); err != nil {
			t.Fatal(err)
		}
		if b.size != in.Len()-out.Len() {
			t.Fatalf("size %d with %d bytes waiting", b.size, in.Len()-out.Len())
		}
	}
	for b.size > 0 {
		if _, err := b.drain(write); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(in.Bytes(), out.Bytes()) {
		t.Fatal("the bytes differ")
	}
	if b.chunks != nil {
		t.Fatal("an empty backlog keeps memory")
	}
}

func TestBacklogStopsAtAnError(t *testing.T) {
	var b backlog
	b.add(make([]byte, 3*chunkSize))
	bad := errors.New("bad")
	calls := 0
	n, err := b.drain(func(p []byte) (int, error) {
		if calls++; calls == 2 {
			return 5, bad
		}
		return len(p), nil
	})
	if !errors.Is(err, bad) || n != chunkSize+5 || b.size != 2*chunkSize-5 {
		t.Fatal(n, err, b.size)
	}
}
