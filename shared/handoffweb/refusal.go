package handoffweb

import (
	"net/http"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// sentence is how a refusal is put to the person who reads the page.
type sentence struct {
	code  int
	title string
	text  string
	state state // whether anything happened
	again bool  // the same page may go on later
}

// lapsed is the state of what may have been confirmed before, elsewhere or unnoticed:
// a handler can have run though its answer was lost, so no refusal that comes and goes
// says that nothing has happened.
const lapsed state = "lapsed"

// sentences has one for each reason. SERVER1's reasons do not occur here.
var sentences = map[handoff.Reason]sentence{
	handoff.ReasonTokenMissing:      {http.StatusNotFound, "This request is not open", "It has expired, or it was opened in another browser.", lapsed, false},
	handoff.ReasonTokenInvalid:      {http.StatusBadRequest, "This request is not genuine", "It was not signed by a service that is trusted here, or it was damaged on the way.", lapsed, false},
	handoff.ReasonTokenExpired:      {http.StatusGone, "This request has expired", "It could be confirmed for a short time only. Go back and start again.", lapsed, false},
	handoff.ReasonTokenNotYetValid:  {http.StatusBadRequest, "This request is not valid yet", "The clocks of the two services differ. Go back and try again in a minute.", lapsed, true},
	handoff.ReasonTokenRevoked:      {http.StatusGone, "This request was taken back", "You signed out where you came from, or the request was withdrawn there.", lapsed, false},
	handoff.ReasonClaimsInvalid:     {http.StatusBadRequest, "This request cannot be read", "The service that sent you signs requests in another form than is understood here.", nothing, false},
	handoff.ReasonIssuerMismatch:    {http.StatusForbidden, "This request is not accepted here", "The service that signed it is not trusted here for this.", nothing, false},
	handoff.ReasonAudienceMismatch:  {http.StatusForbidden, "This request is for another service", "It was signed for somebody else and cannot be used here.", nothing, false},
	handoff.ReasonLifetimeTooLong:   {http.StatusForbidden, "This request is not accepted here", "It was signed for a longer time than is accepted here.", nothing, false},
	handoff.ReasonMethodMismatch:    {http.StatusForbidden, "This request does not fit", "What was signed and what would be done are not the same.", nothing, false},
	handoff.ReasonFieldMismatch:     {http.StatusForbidden, "This request does not fit", "What was signed and what would be done are not the same.", nothing, false},
	handoff.ReasonRequestUnbindable: {http.StatusUnprocessableEntity, "This request cannot be shown", "It cannot be shown to you in full, so it cannot be confirmed on a page.", nothing, false},
	handoff.ReasonTokenReplayed:     {http.StatusConflict, "This request was used before", "It was used before. Look whether it was carried out before you start again.", unsure, false},
	handoff.ReasonIssuedBeforeStart: {http.StatusConflict, "This request is too old", "This service has restarted since it was signed. Look whether it was carried out before you start again.", unsure, false},
	handoff.ReasonStoreUnavailable:  {http.StatusServiceUnavailable, "This does not work at the moment", "This service cannot reach its records.", lapsed, true},
	handoff.ReasonTrustStale:        {http.StatusServiceUnavailable, "This does not work at the moment", "This service has not heard lately which requests still count.", lapsed, true},
	handoff.ReasonLimitExceeded:     {http.StatusServiceUnavailable, "This does not work at the moment", "This service has too much to do.", lapsed, true},
	handoff.ReasonRuleMissing:       {http.StatusForbidden, "This request is not accepted here", "What it asks for cannot be handed off to this service.", nothing, false},
	handoff.ReasonSessionInvalid:    {http.StatusForbidden, "This request is not accepted here", "Sign in again where you came from.", nothing, false},
	handoff.ReasonPolicyDenied:      {http.StatusForbidden, "This request is not accepted here", "You are not allowed to do this.", nothing, false},
	handoff.ReasonArgumentInvalid:   {http.StatusBadRequest, "This request cannot be read", "Something in it is missing or malformed.", nothing, false},
	handoff.ReasonTokenNotSealed:    {http.StatusForbidden, "This request is not accepted here", "It could have been read on its way, and what it asks for must not be.", nothing, false},
	handoff.ReasonActorDenied:       {http.StatusForbidden, "This request is not accepted here", "A program asked for it in your name, and only you can.", nothing, false},
	handoff.ReasonClientInvalid:     {http.StatusForbidden, "This request is not accepted here", "It was not asked for by a program that is known where you came from.", nothing, false},
	handoff.ReasonIssuerUnavailable: {http.StatusServiceUnavailable, "This does not work at the moment", "The service that you came from could not sign.", nothing, true},

	handoff.ReasonCertificateMismatch: {http.StatusForbidden, "This request is not accepted here", "It was signed for a program that proves itself by a certificate, and not for a browser.", nothing, false},
}

// answerTo returns how a refusal is answered. Where the reason does not tell enough,
// the check does.
func (e *exchange) answerTo(refusal *handoff.Refusal) (int, sentence) {
	s, ok := sentences[refusal.Reason]
	switch {
	case refusal.Check == "web.browser":
		s = sentence{http.StatusForbidden, "This request did not come the right way", "It can be confirmed only on the page that opens when you come from a service that is trusted here.", nothing, false}
	case refusal.Check == "web.form" && refusal.Reason == handoff.ReasonArgumentInvalid:
		s = sentence{http.StatusBadRequest, "This request cannot be read", "The form that brought it is not as it should be.", nothing, false}
	case refusal.Check == "web.pending":
		s = sentence{http.StatusTooManyRequests, "Too many requests are open", "Confirm one of those that are open in this browser, or wait until they expire.", nothing, false}
	case refusal.Check == "web.cookie" && refusal.Reason == handoff.ReasonLimitExceeded:
		s = sentence{http.StatusUnprocessableEntity, "This request is too large", "Your browser could not keep it.", nothing, false}
	case !ok:
		s = sentence{http.StatusServiceUnavailable, "It is not known what happened", "The connection was lost in the middle. Look whether it was carried out before you try again.", unsure, true}
		if e.once {
			s.text = "The connection was lost in the middle. You can try again here: it is not carried out twice."
		}
	}
	return s.code, s
}
