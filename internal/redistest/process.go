package redistest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// process is one running server. Its supervising goroutine owns it: it starts
// it, waits for it, and then closes done.
type process struct {
	pid  int
	done chan struct{}
	err  error // how it ended; to be read after done is closed
}

// startProcess starts binary with args, its output going to log. The process
// gets SIGKILL when this one dies, whatever it dies of.
//
// The kernel ties that signal to the *thread* that started the child, and Go
// ends and parks threads as it likes; so the goroutine that starts the server
// keeps its thread until the server has ended.
func startProcess(binary string, args []string, log *os.File) (*process, error) {
	p := &process{done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		defer close(p.done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		cmd := exec.Command(binary, args...)
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Pdeathsig: syscall.SIGKILL,
			Setpgid:   true, // Ctrl-C in a terminal is for the test, which then stops the server in order
		}
		if err := cmd.Start(); err != nil {
			started <- fmt.Errorf("start %s: %w", binary, err)
			return
		}
		p.pid = cmd.Process.Pid
		started <- nil
		p.err = cmd.Wait()
	}()
	if err := <-started; err != nil {
		<-p.done
		return nil, err
	}
	return p, nil
}

// signal sends sig, unless the process has ended and its pid may be another's.
func (p *process) signal(sig syscall.Signal) error {
	select {
	case <-p.done:
		return fmt.Errorf("signal %v to redis-server: %w", sig, os.ErrProcessDone)
	default:
	}
	if err := syscall.Kill(p.pid, sig); err != nil {
		return fmt.Errorf("signal %v to redis-server pid %d: %w", sig, p.pid, err)
	}
	return nil
}

// kill ends the process at once and waits until it is gone.
func (p *process) kill() {
	_ = p.signal(syscall.SIGKILL) // already gone is what we want
	<-p.done
}

// ended reports whether the process is gone.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}
