package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// The parts of a CycloneDX 1.5 bill of materials that are of use here.
type (
	billOfMaterials struct {
		Schema       string       `json:"$schema"`
		Format       string       `json:"bomFormat"`
		Spec         string       `json:"specVersion"`
		Serial       string       `json:"serialNumber"`
		Version      int          `json:"version"`
		Metadata     metadata     `json:"metadata"`
		Components   []component  `json:"components"`
		Dependencies []dependency `json:"dependencies"`
	}
	metadata struct {
		Timestamp string    `json:"timestamp"`
		Component component `json:"component"`
	}
	component struct {
		Type       string     `json:"type"`
		Ref        string     `json:"bom-ref"`
		Name       string     `json:"name"`
		Version    string     `json:"version"`
		Hashes     []hash     `json:"hashes,omitempty"`
		Licences   []licence  `json:"licenses"`
		URL        string     `json:"purl"`
		Properties []property `json:"properties,omitempty"`
	}
	hash struct {
		Algorithm string `json:"alg"`
		Content   string `json:"content"`
	}
	licence struct {
		Licence    *licenceID `json:"license,omitempty"`
		Expression string     `json:"expression,omitempty"`
	}
	licenceID struct {
		ID string `json:"id"`
	}
	property struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	dependency struct {
		Ref     string   `json:"ref"`
		Depends []string `json:"dependsOn"`
	}
)

// bill says what is in a binary: what the binary itself says, which go list must agree with.
func (r *release) bill(program []byte, arch string, modules []module) ([]byte, error) {
	info, err := buildinfo.Read(bytes.NewReader(program))
	if err != nil {
		return nil, fmt.Errorf("reading what the binary for %s is made of: %w", arch, err)
	}
	in := map[string]string{ours: r.version, standard: info.GoVersion}
	sums := map[string]string{}
	for _, d := range info.Deps {
		for d.Replace != nil {
			d = d.Replace
		}
		in[d.Path], sums[d.Path] = d.Version, d.Sum
	}
	b := billOfMaterials{Schema: "http://cyclonedx.org/schema/bom-1.5.schema.json", Format: "CycloneDX", Spec: "1.5", Version: 1,
		Serial: serial(program), Components: []component{}}
	b.Metadata.Timestamp = r.date.Format(time.RFC3339)
	for _, m := range modules {
		version, is := in[m.path]
		if !is {
			continue // of another processor
		}
		if version != m.version {
			return nil, fmt.Errorf("the binary for %s has %s %s, and not %s", arch, m.path, version, m.version)
		}
		delete(in, m.path)
		c := component{Type: "library", Name: m.path, Version: m.version, URL: packageURL(m), Licences: licences(m.licence)}
		c.Ref = c.URL
		if sum := sums[m.path]; sum != "" {
			c.Properties = []property{{"crossfade:go.sum", sum}}
		}
		d := dependency{Ref: c.Ref, Depends: []string{}}
		for _, path := range m.needs {
			for _, other := range modules {
				if other.path == path {
					d.Depends = append(d.Depends, packageURL(other))
				}
			}
		}
		b.Dependencies = append(b.Dependencies, d)
		if m.path != ours {
			b.Components = append(b.Components, c)
			continue
		}
		c.Type, c.Name = "application", "crossfade"
		c.Hashes = []hash{{"SHA-256", fmt.Sprintf("%x", sha256.Sum256(program))}}
		c.Properties = []property{{"crossfade:platform", "linux/" + arch}, {"crossfade:go", info.GoVersion}}
		b.Metadata.Component = c
	}
	if len(in) > 0 {
		return nil, fmt.Errorf("the binary for %s has modules that go list does not know: %v", arch, in)
	}
	text, err := json.MarshalIndent(b, "", "  ")
	return append(text, '\n'), err
}

// serial is a UUID made of the binary: the same for the same one.
func serial(program []byte) string {
	u := sha256.Sum256(append([]byte("crossfade bill of materials\x00"), program...))
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80 // version 8, of one's own making
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

func packageURL(m module) string {
	version := m.version
	if m.path == standard {
		version = strings.TrimPrefix(version, "go")
	}
	return "pkg:golang/" + strings.ToLower(m.path) + "@" + version
}

func licences(expression string) []licence {
	if strings.Contains(expression, " ") {
		return []licence{{Expression: expression}}
	}
	return []licence{{Licence: &licenceID{expression}}}
}
