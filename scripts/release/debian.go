package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const maintainer = "The Crossfade authors <authors@crossfade.invalid>"

// debian makes the package of a binary.
func (r *release) debian(arch string, program []byte, texts map[string][]byte, third []byte) ([]byte, error) {
	version := debianVersion(r.version, r.date)
	var problem error
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(r.source, name))
		if err != nil && problem == nil {
			problem = err
		}
		return data
	}
	zip := func(data []byte) []byte {
		out, err := zipped(data)
		if err != nil && problem == nil {
			problem = err
		}
		return out
	}
	doc := "usr/share/doc/crossfade/"
	entry := fmt.Sprintf("crossfade (%s) unstable; urgency=medium\n\n  * See changes.md.gz.\n\n -- %s  %s\n", version, maintainer, r.date.Format(time.RFC1123Z))
	copyright := "Crossfade\nCopyright 2026 The Crossfade authors\nLicense: Apache-2.0\n On Debian systems the full text is in /usr/share/common-licenses/Apache-2.0.\n\n" + string(third)
	files := []debFile{
		{path: "etc/crossfade/crossfade.yaml", data: read("deploy/systemd/crossfade.yaml"), mode: 0o640, conf: true},
		{path: "usr/bin/crossfade", data: program, mode: 0o755},
		{path: "usr/lib/systemd/system/crossfade.service", data: read("deploy/systemd/crossfade.service"), mode: 0o644},
		{path: "usr/share/bash-completion/completions/crossfade", data: texts["completion bash"], mode: 0o644},
		{path: doc + "changelog.Debian.gz", data: zip([]byte(entry)), mode: 0o644},
		{path: doc + "changes.md.gz", data: zip(read("CHANGELOG.md")), mode: 0o644},
		{path: doc + "copyright", data: []byte(copyright), mode: 0o644},
		{path: doc + "examples/crossfade.yaml", data: texts["config --example"], mode: 0o644},
		{path: "usr/share/fish/vendor_completions.d/crossfade.fish", data: texts["completion fish"], mode: 0o644},
		{path: "usr/share/man/man1/crossfade.1.gz", data: zip(texts["man"]), mode: 0o644},
		{path: "usr/share/zsh/vendor-completions/_crossfade", data: texts["completion zsh"], mode: 0o644},
	}
	var scripts []debFile
	for _, name := range []string{"postinst", "postrm", "prerm"} {
		scripts = append(scripts, debFile{path: name, data: read("deploy/deb/" + name), mode: 0o755})
	}
	if problem != nil {
		return nil, problem
	}
	control := "Package: crossfade\nVersion: " + version + "\nArchitecture: " + arch + "\nMaintainer: " + maintainer + `
Section: database
Priority: optional
Recommends: ca-certificates
Homepage: https://` + ours + `
Description: moves a live Redis to another behind a proxy, and back
 Clients connect to Crossfade instead of the old server. It copies everything to
 the new one and follows every change; one command then moves the clients over
 without losing a write, and another one takes them back.
`
	return writeDeb(control, scripts, files, r.date)
}

// described is what git describe makes of a commit after a tag.
var described = regexp.MustCompile(`^(.+)-(\d+)-g([0-9a-f]+)$`)

// debianVersion makes a version that Debian sorts as git does: v1.2.3 is 1.2.3, what
// came after it is 1.2.3+5.gabc, a candidate v1.2.3-rc1 is 1.2.3~rc1, and without any
// tag it is the date's and the commit's, before all others.
func debianVersion(version string, date time.Time) string {
	version, dirty := strings.CutSuffix(version, "-dirty")
	after := ""
	if found := described.FindStringSubmatch(version); found != nil {
		version, after = found[1], "+"+found[2]+".g"+found[3]
	}
	plain := strings.TrimPrefix(version, "v")
	if plain == version || plain[0] < '0' || plain[0] > '9' {
		plain = "0~" + date.Format("20060102150405") + "." + version
	}
	if dirty {
		after += "+dirty"
	}
	plain = strings.Replace(plain, "-", "~", 1) + after
	return regexp.MustCompile(`[^A-Za-z0-9.+~]`).ReplaceAllString(plain, ".")
}
