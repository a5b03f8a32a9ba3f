package browser

import (
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// form is what a form sends.
type form struct {
	method string
	action *url.URL
	values url.Values
}

// form returns the form of the first button whose text or label begins so.
func (p *Page) form(button string) (form, error) {
	root, err := html.Parse(strings.NewReader(p.Body))
	if err != nil {
		return form{}, err
	}
	for node := range elements(root, atom.Form) {
		for pressed := range elements(node, atom.Button) {
			if strings.HasPrefix(text(pressed), button) || strings.HasPrefix(attribute(pressed, "aria-label"), button) {
				return read(node, pressed)
			}
		}
	}
	return form{}, fmt.Errorf("%s has no button %q: it shows %q", p.URL, button, p.Text())
}

func read(node, pressed *html.Node) (f form, err error) {
	f = form{method: strings.ToUpper(attribute(node, "method")), values: url.Values{}}
	if f.method == "" {
		f.method = http.MethodGet
	}
	if f.action, err = url.Parse(attribute(node, "action")); err != nil {
		return f, err
	}
	for _, kind := range []atom.Atom{atom.Input, atom.Textarea} {
		for field := range elements(node, kind) {
			if name := attribute(field, "name"); name != "" {
				value := attribute(field, "value")
				if kind == atom.Textarea {
					value = text(field)
				}
				f.values.Add(name, value)
			}
		}
	}
	if name := attribute(pressed, "name"); name != "" {
		f.values.Add(name, attribute(pressed, "value"))
	}
	return f, nil
}

// link returns where the first link that shows the text leads.
func (p *Page) link(shown string) (*url.URL, error) {
	root, err := html.Parse(strings.NewReader(p.Body))
	if err != nil {
		return nil, err
	}
	for node := range elements(root, atom.A) {
		if strings.HasPrefix(text(node), shown) {
			return url.Parse(attribute(node, "href"))
		}
	}
	return nil, fmt.Errorf("%s has no link %q: it shows %q", p.URL, shown, p.Text())
}

// Title is the page's heading.
func (p *Page) Title() string {
	root, err := html.Parse(strings.NewReader(p.Body))
	if err != nil {
		return ""
	}
	for node := range elements(root, atom.H1) {
		return text(node)
	}
	return ""
}

// Text is what the page shows, without its forms' values.
func (p *Page) Text() string {
	root, err := html.Parse(strings.NewReader(p.Body))
	if err != nil {
		return errors.Join(errors.New("not HTML"), err).Error()
	}
	for node := range elements(root, atom.Body) {
		return text(node)
	}
	return ""
}

func elements(root *html.Node, kind atom.Atom) iter.Seq[*html.Node] {
	return func(yield func(*html.Node) bool) {
		for node := range root.Descendants() {
			if node.DataAtom == kind && !yield(node) {
				return
			}
		}
	}
}

// text is an element's text as it is read, without scripts and styles.
func text(root *html.Node) string {
	var words []string
	for node := range root.Descendants() {
		if node.Type == html.TextNode && node.Parent.DataAtom != atom.Script && node.Parent.DataAtom != atom.Style {
			words = append(words, strings.Fields(node.Data)...)
		}
	}
	return strings.Join(words, " ")
}

func attribute(node *html.Node, name string) string {
	for _, a := range node.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}
