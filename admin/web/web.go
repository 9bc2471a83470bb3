// Package web is the dashboard: one page, its style and its scripts, in the binary.
// It owns these files and the headers that keep a browser from loading or running anything else.
// It never holds a number or a secret: the page asks the door for all that it shows.
package web

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
)

//go:embed files
var embedded embed.FS

// prefix is where all files but the page itself are.
const prefix = "/web/"

// kinds are the types of the files, whatever the machine's own tables say.
var kinds = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

type file struct {
	kind, tag string
	text      []byte
}

// files is by path of the request.
var files = load()

func load() map[string]file {
	all := make(map[string]file)
	entries, err := fs.ReadDir(embedded, "files")
	if err != nil {
		panic(fmt.Sprintf("the dashboard's own files: %v", err)) // they are in the binary
	}
	for _, e := range entries {
		text, err := fs.ReadFile(embedded, "files/"+e.Name())
		if err != nil {
			panic(fmt.Sprintf("the dashboard's own files: %v", err))
		}
		sum := sha256.Sum256(text)
		kind, known := kinds[path.Ext(e.Name())]
		if !known {
			kind = mime.TypeByExtension(path.Ext(e.Name()))
		}
		at := prefix + e.Name()
		if e.Name() == "index.html" {
			at = "/"
		}
		all[at] = file{kind: kind, tag: `"` + hex.EncodeToString(sum[:8]) + `"`, text: text}
	}
	return all
}

// Has reports whether the dashboard has something at a path.
func Has(at string) bool {
	_, ok := files[at]
	return ok
}

// policy lets the page load and ask nothing but what comes from here, run no script
// but those files, and be shown in no other page.
var policy = strings.Join([]string{
	"default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'",
	"base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
	"require-trusted-types-for 'script'", "trusted-types 'none'",
}, "; ")

// Handler serves the files. They may be kept, and are asked for again each time:
// another version of the program has others.
func Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, ok := files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		h := w.Header()
		h.Set("Content-Type", f.kind)
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Frame-Options", "DENY")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", f.tag)
		if r.Header.Get("If-None-Match") == f.tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		h.Set("Content-Length", fmt.Sprint(len(f.text)))
		_, _ = w.Write(f.text) // a HEAD is answered without it; who has gone needs none
	})
}
