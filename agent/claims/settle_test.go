package claims

import (
	"errors"
	"time"
)

// synctestSettle lets fake time pass until ok, for what happens after a delay.
func synctestSettle(ok func() bool) error {
	for range 1000 {
		if ok() {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return errors.New("did not settle")
}
