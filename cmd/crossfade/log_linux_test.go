package main

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/crossfade/crossfade/internal/redistest"
)

// stalledPipe is a pipe that is full: nobody reads it.
func stalledPipe(t *testing.T) (reads, writes *os.File) {
	t.Helper()
	reads, writes, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = reads.Close(), writes.Close() })
	size, err := unix.FcntlInt(writes.Fd(), unix.F_SETPIPE_SZ, 4096)
	if err != nil {
		t.Skipf("a pipe's size cannot be set here: %v", err)
	}
	if _, err := writes.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	return reads, writes
}

// TestStalledLogReader: who reads the log and stops keeps neither the clients nor a switch
// nor the end of the process waiting.
func TestStalledLogReader(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	_, full := stalledPipe(t)
	cmd := command(context.Background(), shortDir(t), nil, "run", "--listen", "unix:clients.sock", "--source", url(source), "--target", url(target),
		"--sync.heartbeat", "100ms", "--log.status_interval", "100ms", "--log.level", "debug")
	cmd.Stderr = full
	cf := &running{Cmd: cmd, dir: cmd.Dir, ended: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(cf.ended); _ = cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-cf.ended })
	redistest.Eventually(t, 15*time.Second, func() error {
		_, err := os.Stat(filepath.Join(cf.dir, "clients.sock"))
		return err
	}, "listening")
	client := clientOf(t, cf.dir)
	client.do("INCR", "a")
	cf.awaitReady(t)
	must(t, cf.dir, 0, "cutover")
	if got := client.do("INCR", "a"); got != ":2\r\n" {
		t.Errorf("after the switch: %q", got)
	}
	from := time.Now()
	if code := cf.stop(t, syscall.SIGTERM); code != 143 {
		t.Errorf("exit status %d", code)
	}
	if took := time.Since(from); took > 10*time.Second {
		t.Errorf("it took %v to end", took)
	}
}

// TestStalledReaderOfAnError: a process that cannot start says why, and does not wait for
// ever until that is read.
func TestStalledReaderOfAnError(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	_, full := stalledPipe(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	dir := shortDir(t)
	cmd := command(ctx, dir, nil, "run", "--listen", "unix:clients.sock", "--source", url(source), "--target", url(target), "--state", filepath.Join(dir, "none", "state"))
	cmd.Stderr = full
	_ = cmd.Run()
	if code := cmd.ProcessState.ExitCode(); ctx.Err() != nil || code != 1 {
		t.Errorf("exit status %d, %v", code, ctx.Err())
	}
}
