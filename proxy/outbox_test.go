package proxy

import (
	"bytes"
	"io"
	"net"
	"testing"
)

func noHurry() bool { return false }

// TestInheritedRepliesTakeTheirRoomOnce: what is left of a guest's replies, which may be many
// large ones, costs its session no memory of its own, and comes before all else.
func TestInheritedRepliesTakeTheirRoomOnce(t *testing.T) {
	const size = 16 << 20
	var b backlog
	var want bytes.Buffer
	for i := range size / chunkSize {
		chunk := bytes.Repeat([]byte{byte(i)}, chunkSize)
		b.add(chunk)
		want.Write(chunk)
	}
	want.WriteString("then")
	conn, client := net.Pipe()
	defer func() { _ = client.Close() }()
	lost := make(chan struct{})
	o := newOutbox(conn, 2*size, noHurry, func() { close(lost) }, func() {})
	allocs := testing.AllocsPerRun(1, func() { o.inherit(&b); b, o.brought = o.brought, backlog{} })
	o.inherit(&b)
	if got := o.size(); allocs != 0 || got != size || b.size != 0 || b.chunks != nil {
		t.Errorf("%d bytes are kept, %d are left, with %v allocations", got, b.size, allocs)
	}
	o.kick()
	o.append([]byte("then"))
	o.flush()
	got := make([]byte, want.Len())
	if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("the client got something else, %v", err)
	}
	o.drainers.Wait()
	if got := o.size(); !o.idle() || got >= 2*chunkSize {
		t.Errorf("%d bytes are kept when all is written", got)
	}
}

// TestOutboxCountsWhatIsBeingWritten: what a client takes nothing of is counted, for its own
// limit and for that of all, also while it is in the hands of whoever writes it.
func TestOutboxCountsWhatIsBeingWritten(t *testing.T) {
	const size = 4 << 20
	conn, client := net.Pipe()
	overs := 0
	o := newOutbox(conn, 2*size, noHurry, func() { _ = conn.Close() }, func() { overs++ })
	o.append(make([]byte, size))
	o.kick()
	if _, err := io.ReadFull(client, make([]byte, 10)); err != nil { // it is being written
		t.Fatal(err)
	}
	if got := o.size(); got < size {
		t.Errorf("%d bytes are counted, %d are held", got, size)
	}
	o.append(make([]byte, size))
	o.kick()
	if overs != 0 {
		t.Error("it was too much before it was more than the limit")
	}
	o.append(make([]byte, pieceSize))
	o.kick()
	if overs != 1 {
		t.Errorf("more than the limit waits, and that was told %d times", overs)
	}
	_ = client.Close()
	o.drainers.Wait()
	if got := o.size(); got != 0 {
		t.Errorf("%d bytes are held of a client that is gone", got)
	}
}
