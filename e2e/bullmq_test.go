package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
)

// TestBullMQAcrossSwitches has BullMQ as the load: workers that block on a sorted set,
// many scripts, and streams that tell of every event. It needs node and what
// make queues fetches into the folder E2E_BULLMQ.
func TestBullMQAcrossSwitches(t *testing.T) {
	dir := os.Getenv("E2E_BULLMQ")
	if dir == "" {
		t.Skip("make queues")
	}
	acrossSwitches(t, func(addr string) jobs { return startBullMQ(t, dir, addr) })
}

// bullmqLoad is a process that adds jobs and does them; see testdata/bullmq.
type bullmqLoad struct {
	t   *testing.T
	in  io.WriteCloser
	out *bufio.Reader
}

func startBullMQ(t *testing.T, dir, addr string) *bullmqLoad {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", filepath.Join(dir, "load.mjs"), port)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in := must[io.WriteCloser](t)(cmd.StdinPipe())
	out := must[io.ReadCloser](t)(cmd.StdoutPipe())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // it ends when its input does, and this process with it
		_ = in.Close()
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
	})
	q := &bullmqLoad{t: t, in: in, out: bufio.NewReader(out)}
	redistest.Eventually(t, time.Minute, func() error {
		if n, _ := q.done(); n == 0 {
			return fmt.Errorf("no job done")
		}
		return nil
	}, "the first job")
	return q
}

// ask sends a command and reads the answer to it.
func (q *bullmqLoad) ask(command string, answer any) {
	q.t.Helper()
	if _, err := io.WriteString(q.in, command+"\n"); err != nil {
		q.t.Fatal(err)
	}
	line, err := q.out.ReadBytes('\n')
	if err != nil {
		q.t.Fatalf("the load has ended: %v", err)
	}
	if err := json.Unmarshal(line, answer); err != nil {
		q.t.Fatalf("the load says %q: %v", line, err)
	}
}

func (q *bullmqLoad) done() (int, []string) {
	q.t.Helper()
	var a struct {
		Done    int
		Trouble []string
	}
	q.ask("count", &a)
	return a.Done, a.Trouble
}

func (q *bullmqLoad) end() string {
	t := q.t
	t.Helper()
	var a struct {
		Added, Completed, Failed, Kept int
		Counts                         map[string]int // by state, of the jobs that are there
		Wrong, Trouble                 []string
	}
	q.ask("end", &a)
	if wrong := slices.Concat(a.Trouble, a.Wrong); len(wrong) > 0 {
		t.Fatalf("%d things are wrong: %q", len(wrong), wrong[:min(len(wrong), 10)])
	}
	for state, n := range a.Counts {
		if want := map[bool]int{true: a.Kept}[state == "completed"]; n != want {
			t.Errorf("by BullMQ's account %d jobs are %s, want %d", n, state, want)
		}
	}
	if a.Added == 0 || a.Kept == 0 || a.Completed != a.Added || a.Failed != 0 {
		t.Errorf("%d jobs added; BullMQ counts %d as completed and %d as failed, and has kept %d", a.Added, a.Completed, a.Failed, a.Kept)
	}
	return fmt.Sprintf("%d jobs added, each done once and told of once by each event; by BullMQ's account %d completed, 0 failed, 0 stalled, 0 tried again", a.Added, a.Completed)
}
