package identity

// SaveUntil makes the first n steps of Save, as one that crashes then; false
// says that there are not so many.
func (d *Disk) SaveUntil(i *Issued, n int) (bool, error) {
	steps, err := d.steps(i)
	if err != nil || n > len(steps) {
		return false, err
	}
	for _, step := range steps[:n] {
		if err := step(); err != nil {
			return false, err
		}
	}
	return true, nil
}
