package browser

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
)

// Page is one tab.
type Page struct {
	browser *Browser
	session string

	mu       sync.Mutex
	asked    []string
	problems []string
}

func (p *Page) call(ctx context.Context, method string, params, into any) error {
	return p.browser.call(ctx, p.session, method, params, into)
}

// heard notes what the page asks for and complains of.
func (p *Page) heard(m message) {
	var e struct {
		Request          struct{ URL string }
		ExceptionDetails struct {
			Text      string
			Exception struct{ Description string }
		}
		Entry struct{ Level, Text, URL string }
		Type  string
		Args  []struct{ Value any }
	}
	if json.Unmarshal(m.Params, &e) != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch m.Method {
	case "Network.requestWillBeSent":
		p.asked = append(p.asked, e.Request.URL)
	case "Runtime.exceptionThrown":
		p.problems = append(p.problems, e.ExceptionDetails.Text+" "+e.ExceptionDetails.Exception.Description)
	case "Log.entryAdded":
		if e.Entry.Level == "error" || e.Entry.Level == "warning" {
			p.problems = append(p.problems, e.Entry.Text+" "+e.Entry.URL)
		}
	case "Runtime.consoleAPICalled":
		if e.Type == "error" || e.Type == "warning" {
			p.problems = append(p.problems, fmt.Sprint(e.Args))
		}
	}
}

// Asked returns the addresses of all requests so far.
func (p *Page) Asked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.asked...)
}

// Problems returns the errors and warnings so far, policy violations among them, and
// forgets them.
func (p *Page) Problems() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.problems
	p.problems = nil
	return list
}

// Go loads an address.
func (p *Page) Go(ctx context.Context, address string) error {
	var r struct{ ErrorText string }
	if err := p.call(ctx, "Page.navigate", map[string]any{"url": address}, &r); err != nil {
		return err
	}
	if r.ErrorText != "" {
		return fmt.Errorf("loading %s: %s", address, r.ErrorText)
	}
	return nil
}

// Show sets the window's size in pixels, and whether it is dark.
func (p *Page) Show(ctx context.Context, width, height int, dark bool) error {
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	err := p.call(ctx, "Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}, nil)
	if err != nil {
		return err
	}
	// Scrollbars would take their width from the pictures.
	if err := p.call(ctx, "Emulation.setScrollbarsHidden", map[string]any{"hidden": true}, nil); err != nil {
		return err
	}
	return p.call(ctx, "Emulation.setEmulatedMedia", map[string]any{"features": []any{
		map[string]any{"name": "prefers-color-scheme", "value": scheme},
		map[string]any{"name": "prefers-reduced-motion", "value": "reduce"},
	}}, nil)
}

// Eval evaluates a script in the page, waits for a promise, and reads what comes of it.
func (p *Page) Eval(ctx context.Context, script string, into any) error {
	var r struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	err := p.call(ctx, "Runtime.evaluate", map[string]any{"expression": script, "awaitPromise": true, "returnByValue": true}, &r)
	switch {
	case err != nil:
		return err
	case r.ExceptionDetails != nil:
		return fmt.Errorf("%s: %s %s", brief(script), r.ExceptionDetails.Text, r.ExceptionDetails.Exception.Description)
	case into == nil:
		return nil
	case r.Result.Value == nil:
		return fmt.Errorf("%s: undefined", brief(script))
	}
	return json.Unmarshal(r.Result.Value, into)
}

// Text is what is to be read at the first element of a selector, "" when it is not there
// or not shown.
func (p *Page) Text(ctx context.Context, selector string) (text string, err error) {
	return text, p.Eval(ctx, fmt.Sprintf(`(() => {
		const node = document.querySelector(%q);
		return node?.checkVisibility() ? node.innerText : '';
	})()`, selector), &text)
}

// Click clicks at the middle of an element as a mouse does. It must be shown and enabled,
// and nothing may lie on it.
func (p *Page) Click(ctx context.Context, selector string) error {
	var at struct {
		X, Y float64
		Why  string
	}
	err := p.Eval(ctx, fmt.Sprintf(`(() => {
		const node = document.querySelector(%q);
		if (!node) return {Why: 'is not there'};
		if (node.disabled) return {Why: 'is disabled'};
		node.scrollIntoView({block: 'center'});
		const box = node.getBoundingClientRect();
		const x = box.x + box.width / 2, y = box.y + box.height / 2;
		const top = document.elementFromPoint(x, y);
		if (!top || !(node.contains(top) || top.contains(node))) return {Why: 'is not shown, or something lies on it'};
		return {X: x, Y: y, Why: ''};
	})()`, selector), &at)
	if err != nil {
		return err
	}
	if at.Why != "" {
		return fmt.Errorf("clicking %s: it %s", selector, at.Why)
	}
	for _, kind := range []string{"mousePressed", "mouseReleased"} {
		err := p.call(ctx, "Input.dispatchMouseEvent", map[string]any{"type": kind, "x": at.X, "y": at.Y, "button": "left", "clickCount": 1}, nil)
		if err != nil {
			return err
		}
	}
	return nil
}

// Type types text to whatever has the focus.
func (p *Page) Type(ctx context.Context, text string) error {
	return p.call(ctx, "Input.insertText", map[string]any{"text": text}, nil)
}

// keys are those that Press knows, with their codes and the text that they make.
var keys = map[string]struct {
	code int
	text string
}{"Tab": {9, ""}, "Enter": {13, "\r"}, "Escape": {27, ""}, " ": {32, " "}}

// Press presses a key: Tab, Enter, Escape or a space, or Tab with shift as "-Tab".
func (p *Page) Press(ctx context.Context, name string) error {
	key, shift := strings.CutPrefix(name, "-")
	k, known := keys[key]
	if !known {
		return fmt.Errorf("pressing %q: an unknown key", name)
	}
	event := map[string]any{"key": key, "windowsVirtualKeyCode": k.code, "code": strings.ReplaceAll(key, " ", "Space")}
	if shift {
		event["modifiers"] = 8
	}
	for _, kind := range []string{"keyDown", "keyUp"} {
		event["type"] = kind
		delete(event, "text")
		if kind == "keyDown" && k.text != "" {
			event["text"] = k.text
		}
		if err := p.call(ctx, "Input.dispatchKeyEvent", event, nil); err != nil {
			return err
		}
	}
	return nil
}

// Picture writes what the whole page looks like to a PNG file.
func (p *Page) Picture(ctx context.Context, path string) error {
	var r struct{ Data string }
	if err := p.call(ctx, "Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": true}, &r); err != nil {
		return err
	}
	png, err := base64.StdEncoding.DecodeString(r.Data)
	if err != nil {
		return fmt.Errorf("a picture of the page: %w", err)
	}
	return os.WriteFile(path, png, 0o644)
}
