package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/crossfade/crossfade/config"
)

const (
	maxWords = 300 // bytes of what a hook says that are kept
	reapTime = time.Second
)

// nameOf names a hook for logs. What follows the host of a URL may be a secret.
func nameOf(number int, t config.Told) string {
	if len(t.Run) > 0 {
		return fmt.Sprintf("hook %d (%s)", number, filepath.Base(t.Run[0]))
	}
	host := ""
	if u, err := url.Parse(t.URL.Reveal()); err == nil {
		host = u.Host
	}
	return fmt.Sprintf("hook %d (%s)", number, host)
}

// run starts a program with text on its standard input and waits for it. It and all
// that it has started are killed when ctx ends. Its environment has none of our
// settings: they hold secrets.
func run(ctx context.Context, argv []string, text []byte) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin = bytes.NewReader(text)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "CROSSFADE_") })
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = reapTime // for one that has handed its output on
	said := &words{}
	cmd.Stdout, cmd.Stderr = said, said
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) && cmd.ProcessState.Success() {
		return nil // what it has left running has its output open
	}
	if err != nil && said.text() != "" {
		return fmt.Errorf("%w: %s", err, said.text())
	}
	return err
}

// words keep the begin of what is written to them.
type words struct{ bytes.Buffer }

func (w *words) Write(p []byte) (int, error) {
	if room := maxWords - w.Len(); room > 0 {
		_, _ = w.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// text is on one line.
func (w *words) text() string {
	return strings.Join(strings.Fields(strings.ToValidUTF8(w.String(), "")), " ")
}

var client = &http.Client{
	Transport: http.DefaultTransport.(*http.Transport).Clone(),
	// Where else it would be told is not the operator's word.
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// post sends text; an answer of 2xx is a yes. The error never holds the address.
func post(ctx context.Context, to string, text []byte) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(text))
	if err != nil {
		return errors.New("its url cannot be asked")
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "crossfade")
	response, err := client.Do(request)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return fmt.Errorf("asking it: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	said := &words{}
	_, _ = io.Copy(said, io.LimitReader(response.Body, maxWords))
	if response.StatusCode/100 == 2 {
		return nil
	}
	if said.text() != "" {
		return fmt.Errorf("it answered %s: %s", response.Status, said.text())
	}
	return fmt.Errorf("it answered %s", response.Status)
}
