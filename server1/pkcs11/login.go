//go:build cgo

package pkcs11

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/miekg/pkcs11"
)

// login is what this process knows of a token's PIN. All keys in the token share it, as
// they share the token's count of wrong ones.
type login struct {
	mu       sync.Mutex
	pin      string // the first that was given; empty: none was
	tried    bool
	accepted bool
	refused  error // the login failed: there will be no other
}

var logins = struct {
	sync.Mutex
	of map[string]*login
}{of: map[string]*login{}}

func loginOf(token pkcs11.TokenInfo) *login {
	name := strings.Join([]string{token.ManufacturerID, token.Model, token.SerialNumber, token.Label}, "\x00")
	logins.Lock()
	defer logins.Unlock()
	if logins.of[name] == nil {
		logins.of[name] = &login{}
	}
	return logins.of[name]
}

// in logs in. The flags are those of the token, and the file is where the PIN is.
func (l *login) in(module module, session pkcs11.SessionHandle, flags uint, pin, file string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pin = cmp.Or(l.pin, pin)
	switch {
	case l.refused != nil:
		return l.refused
	case l.pin != pin:
		return fmt.Errorf("the PIN in %s is another than that of a URI of the same token that was given before", file)
	case flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0, flags&pkcs11.CKF_USER_PIN_COUNT_LOW != 0 && l.tried:
		return errors.New("the token says that it locks after a few more wrong PINs (CKF_USER_PIN_FINAL_TRY or _COUNT_LOW), " +
			"so this program does not log in: log in once with the token's own tool, which ends that")
	}
	l.tried = true
	err := module.Login(session, pkcs11.CKU_USER, pin)
	switch {
	case err == nil:
		l.accepted = true
	case is(err, pkcs11.CKR_USER_ALREADY_LOGGED_IN) && l.accepted:
	case is(err, pkcs11.CKR_USER_ALREADY_LOGGED_IN):
		return errors.New("something else in this process has logged in to the token, so the PIN cannot be tried")
	case is(err, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_TOKEN_NOT_PRESENT,
		pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED):
		return failed("logging in", err) // the token is away, and has seen no PIN
	default:
		l.refused = fmt.Errorf("the token does not take the PIN in %s (%w): it is not tried again until the program is started again, as tokens lock", file, err)
		return l.refused
	}
	return nil
}
