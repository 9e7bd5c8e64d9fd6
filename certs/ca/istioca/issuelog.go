package istioca

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// The log of what was issued is bounded: a file that has logBytes is put aside
// as issued.log.1, and the oldest of logFiles goes. 8 MiB are about 30,000
// certificates.
const (
	logBytes = 8 << 20
	logFiles = 4
)

// Entry is one line of the log of what was issued.
type Entry struct {
	Time     time.Time `json:"time"`
	ID       string    `json:"id"`     // the SPIFFE ID; of the authority's own serving certificate its names
	Serial   string    `json:"serial"` // in hex
	NotAfter time.Time `json:"not_after"`
	Issuer   string    `json:"issuer"` // Issuer.ID
	Caller   string    `json:"caller"` // how the caller was authenticated
}

// record appends an entry before the certificate is given out. An authority
// that cannot record does not issue.
func (d *dir) record(e Entry) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	unlock, err := d.lock()
	if err != nil {
		return err
	}
	defer unlock()
	path := filepath.Join(d.path, logFile)
	if err := turnLog(path); err != nil {
		return fmt.Errorf("log of what was issued: %w", err)
	}
	if err := appendLine(path, line); err != nil {
		return fmt.Errorf("log of what was issued: %w", err)
	}
	return nil
}

// appendLine writes a line of its own, also where a crash left half a line.
func appendLine(path string, line []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	text := append(line, '\n')
	if size := info.Size(); size > 0 {
		last := []byte{0}
		if _, err := f.ReadAt(last, size-1); err != nil {
			return err
		}
		if last[0] != '\n' {
			text = append([]byte{'\n'}, text...)
		}
	}
	_, err = f.Write(text)
	return err
}

// turnLog puts a full log aside.
func turnLog(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil || info.Size() < logBytes {
		return err
	}
	for n := logFiles - 1; n > 0; n-- {
		from := fmt.Sprintf("%s.%d", path, n-1)
		if n == 1 {
			from = path
		}
		if err := os.Rename(from, fmt.Sprintf("%s.%d", path, n)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
