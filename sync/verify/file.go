package verify

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Write puts a report into path.json and path.txt, for programs and for people.
// Whoever reads them finds the old report or the new one, never a part.
func Write(path string, r Report) error {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return fmt.Errorf("writing the report %s: %w", path, err)
	}
	err := errors.Join(replace(path+".json", text.Bytes()), replace(path+".txt", []byte(r.Page())))
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}

// Read returns the report of path.json; ok is false when there is none.
func Read(path string) (r Report, ok bool, err error) {
	text, err := os.ReadFile(path + ".json")
	if errors.Is(err, fs.ErrNotExist) {
		return Report{}, false, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		return Report{}, false, fmt.Errorf("reading the report %s.json: %w", path, err)
	}
	return r, true, nil
}

// replace writes a file under another name and renames it. Keys are the
// applications' own: nobody else needs to read them.
func replace(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
