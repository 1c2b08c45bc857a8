package console

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/keyturn/keyturn/admin"
)

// hasPasskeys reports whether the browser can use passkeys at this address: WebAuthn wants a name, not an IP address.
func (k *call) hasPasskeys() bool {
	_, err := netip.ParseAddr(hostname(k.r.Host))
	return err != nil
}

// webAuthn returns the relying party of this address (WebAuthn §4). It requires that the person is verified, by a PIN
// or a finger, and that the passkey itself knows whose it is.
func (k signInCalls) webAuthn() (*webauthn.WebAuthn, error) {
	if !k.hasPasskeys() {
		return nil, problem(http.StatusConflict, "no-passkeys",
			"passkeys need a name instead of an IP address: open the "+
				"console as http://localhost, or by its URL")
	}
	resident := true
	return webauthn.New(&webauthn.Config{
		RPID:          hostname(k.r.Host),
		RPDisplayName: "keyturn",
		RPOrigins:     []string{k.origin()},
		AuthenticatorSelection: protocol.AuthenticatorSelection{
			ResidentKey:        protocol.ResidentKeyRequirementRequired,
			RequireResidentKey: &resident,
			UserVerification:   protocol.VerificationRequired,
		},
	})
}

// holder is an administrator as WebAuthn sees one.
type holder struct {
	row         admin.Administrator
	credentials []webauthn.Credential
	passkeys    []admin.Passkey
}

// WebAuthnID implements webauthn.User.
func (h *holder) WebAuthnID() []byte {
	id, _ := base64.RawURLEncoding.DecodeString(h.row.Handle)
	return id
}

// WebAuthnName implements webauthn.User.
func (h *holder) WebAuthnName() string { return h.row.Name }

// WebAuthnDisplayName implements webauthn.User.
func (h *holder) WebAuthnDisplayName() string { return h.row.Name }

// WebAuthnCredentials implements webauthn.User.
func (h *holder) WebAuthnCredentials() []webauthn.Credential { return h.credentials }

func (k signInCalls) holder(ctx context.Context, row admin.Administrator) (*holder, error) {
	h := &holder{row: row}
	var err error
	if h.passkeys, err = k.reads().SignIns().Passkeys(ctx, row); err != nil {
		return nil, err
	}
	h.credentials = make([]webauthn.Credential, len(h.passkeys))
	for i, p := range h.passkeys {
		if err := json.Unmarshal([]byte(p.Credential), &h.credentials[i]); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// ceremony is the data that waits for the answer of the browser.
type ceremony struct {
	Purpose string // register or sign-in
	Name    string // who registers
	Data    webauthn.SessionData
}

// Purposes of a ceremony.
const (
	registers = "register"
	signsIn   = "sign-in"
)

// begin keeps a ceremony, and answers with the options for the browser.
func (k signInCalls) begin(c ceremony, options any) error {
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	token, err := k.reads().SignIns().BeginCeremony(string(text))
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]any{"ceremony": token, "options": options})
	if err != nil {
		return err
	}
	k.writeJSON(http.StatusOK, body)
	return nil
}

// browserAnswer is what the script sends at the end of a ceremony.
type browserAnswer struct {
	Ceremony   string          `json:"ceremony"`
	Label      string          `json:"label"`
	Next       string          `json:"next"`
	Credential json.RawMessage `json:"credential"`
}

// finish reads the answer of the browser, and takes the ceremony that it belongs to.
func (k signInCalls) finish(purpose string) (a browserAnswer, c ceremony, err error) {
	body, err := k.body()
	if err != nil {
		return a, c, err
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return a, c, problem(http.StatusBadRequest, "bad-json", "the body is not the answer of a browser")
	}
	text, err := k.reads().SignIns().OpenCeremony(a.Ceremony)
	if errors.Is(err, admin.ErrNotFound) {
		return a, c, errNoCeremony()
	}
	if err != nil {
		return a, c, err
	}
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return a, c, err
	}
	if c.Purpose != purpose {
		return a, c, refusal(http.StatusForbidden, "no-ceremony", "the answer belongs to something else: try again")
	}
	return a, c, nil
}

// errNoCeremony means that an answer comes too late, or again.
func errNoCeremony() *Problem {
	return refusal(http.StatusForbidden, "no-ceremony", "it took too long, or was answered before: try again")
}

// answered records that an answer was right: it counts once.
func (k signInCalls) answered(a browserAnswer) error {
	err := k.reads().SignIns().AnswerCeremony(k.r.Context(), a.Ceremony)
	if errors.Is(err, admin.ErrConflict) {
		return errNoCeremony()
	}
	return err
}

func (k signInCalls) passkeyOptions() error {
	w, err := k.webAuthn()
	if err != nil {
		return err
	}
	row, err := k.reads().Administrators().Find(k.r.Context(), k.who.name)
	if err != nil {
		return err
	}
	h, err := k.holder(k.r.Context(), row)
	if err != nil {
		return err
	}
	var known []protocol.CredentialDescriptor
	for _, c := range h.credentials {
		known = append(known, c.Descriptor())
	}
	options, data, err := w.BeginRegistration(h, webauthn.WithExclusions(known))
	if err != nil {
		return err
	}
	return k.begin(ceremony{registers, row.Name, *data}, options.Response)
}

// badPasskey reports an answer that proves nothing. The reason goes to the log.
func (k signInCalls) badPasskey(err error) error {
	reason := err.Error()
	var detailed *protocol.Error
	if errors.As(err, &detailed) {
		reason = detailed.Details + ": " + detailed.DevInfo
	}
	k.c.Log.Warn("a passkey was refused", "error", reason, "address", k.address())
	return refusal(http.StatusForbidden, "bad-passkey", "the passkey was not accepted")
}

func (k signInCalls) addPasskey() error {
	a, c, err := k.finish(registers)
	if err != nil {
		return err
	}
	if c.Name != k.who.name {
		return refusal(http.StatusForbidden, "no-ceremony", "the answer belongs to somebody else")
	}
	w, err := k.webAuthn()
	if err != nil {
		return err
	}
	ctx := k.r.Context()
	row, err := k.reads().Administrators().Find(ctx, c.Name)
	if err != nil {
		return err
	}
	h, err := k.holder(ctx, row)
	if err != nil {
		return err
	}
	parsed, err := protocol.ParseCredentialCreationResponseBytes(a.Credential)
	if err != nil {
		return k.badPasskey(err)
	}
	made, err := w.CreateCredential(h, c.Data, parsed)
	if err != nil {
		return k.badPasskey(err)
	}
	if err := k.answered(a); err != nil {
		return err
	}
	text, err := json.Marshal(made)
	if err != nil {
		return err
	}
	id := base64.RawURLEncoding.EncodeToString(made.ID)
	if err := k.reads().SignIns().AddPasskey(ctx, row, id, a.Label, string(text)); err != nil {
		return err
	}
	k.writeJSON(http.StatusOK, []byte(`{"next": "/admins?done=passkey-added"}`))
	return nil
}

func (k signInCalls) signInOptions() error {
	w, err := k.webAuthn()
	if err != nil {
		return err
	}
	options, data, err := w.BeginDiscoverableLogin(webauthn.WithUserVerification(protocol.VerificationRequired))
	if err != nil {
		return err
	}
	return k.begin(ceremony{Purpose: signsIn, Data: *data}, options.Response)
}

func (k signInCalls) signInByPasskey() error {
	a, c, err := k.finish(signsIn)
	if err != nil {
		return err
	}
	w, err := k.webAuthn()
	if err != nil {
		return err
	}
	parsed, err := protocol.ParseCredentialRequestResponseBytes(a.Credential)
	if err != nil {
		return k.badPasskey(err)
	}
	ctx := k.r.Context()
	var h *holder
	find := func(_, handle []byte) (webauthn.User, error) {
		row, err := k.reads().SignIns().OfHandle(ctx, base64.RawURLEncoding.EncodeToString(handle))
		if err != nil {
			return nil, err
		}
		h, err = k.holder(ctx, row)
		return h, err
	}
	_, used, err := w.ValidatePasskeyLogin(find, c.Data, parsed)
	if errors.Is(err, admin.ErrUnavailable) {
		return err
	}
	if h != nil {
		k.who = identity{name: h.row.Name, actor: admin.AdminActor(h.row.Name), way: admin.WayPasskey}
	}
	if err != nil {
		return k.badPasskey(err)
	}
	if err := k.answered(a); err != nil {
		return err
	}
	if used.Authenticator.CloneWarning {
		return k.badPasskey(errors.New("its counter went back: there may be a copy of the passkey"))
	}
	return k.signedIn(ctx, h, used, a.Next)
}

// signedIn records the use of a passkey, and begins a session.
func (k signInCalls) signedIn(ctx context.Context, h *holder, used *webauthn.Credential, next string) error {
	text, err := json.Marshal(used)
	if err != nil {
		return err
	}
	id := base64.RawURLEncoding.EncodeToString(used.ID)
	for _, p := range h.passkeys {
		if p.ID != id {
			continue
		}
		token, err := k.reads().SignIns().ByPasskey(ctx, p, string(text), k.visit(admin.WayPasskey))
		if err != nil {
			return err
		}
		k.setSession(token)
		body, err := json.Marshal(map[string]string{"next": localPath(next)})
		if err != nil {
			return err
		}
		k.writeJSON(http.StatusOK, body)
		return nil
	}
	return k.badPasskey(errors.New("the passkey was removed"))
}

func (k signInCalls) removePasskey() error {
	if err := k.reads().SignIns().RemovePasskey(k.r.Context(), k.who.name, k.vars("id")); err != nil {
		return err
	}
	return k.goTo("/admins", "passkey-removed")
}
