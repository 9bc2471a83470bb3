package proxy

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLoopsAreRunPromptly(t *testing.T) {
	slice := func() uint64 {
		attr, err := unix.SchedGetAttr(0, 0)
		if err != nil {
			t.Error(err)
			return 0
		}
		return attr.Runtime
	}
	takes := make(chan bool)
	go func() {
		runtime.LockOSThread() // and never back: the thread ends with it
		prompt()
		takes <- slice() == shortSlice
	}()
	if !<-takes {
		t.Skip("the kernel is older than 6.12, or this process is no ordinary one to it")
	}
	w := newWorld(t)
	w.client().want("PING", "+PONG\r\n") // now the loops are there
	if len(w.proxy.eventLoops()) == 0 {
		t.Fatal("there are no loops")
	}
	for _, l := range w.proxy.eventLoops() {
		l.call(func() {
			if got := slice(); got != shortSlice {
				t.Errorf("a loop's thread runs for %d ns at a time", got)
			}
		})
	}
	if got := slice(); got == shortSlice {
		t.Error("another thread asks for short slices")
	}
}
