//! The grammar of label selectors, with apimachinery's texts.

use super::{Operator, Requirement, joined};
use crate::{
    field::{FieldError, Path},
    name,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    End,
    Close,
    Comma,
    Not,
    Word,
    Open,
    In,
    NotIn,
    Compare(Operator),
}

/// A recursive-descent parser over the tokens of a selector.
pub(super) struct Parser<'a> {
    tokens: Vec<(Token, &'a str)>,
    at: usize,
}

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let mut tokens = Vec::new();
        let mut rest = text.trim_start_matches(is_space);
        while !rest.is_empty() {
            let (token, length) = scan(rest);
            tokens.push((token, &rest[..length]));
            rest = rest[length..].trim_start_matches(is_space);
        }
        tokens.push((Token::End, ""));
        Self { tokens, at: 0 }
    }

    /// The next token where `in` and `notin` are words like any other.
    fn peek(&self) -> (Token, &'a str) {
        match self.raw() {
            (Token::In | Token::NotIn, literal) => (Token::Word, literal),
            other => other,
        }
    }

    fn raw(&self) -> (Token, &'a str) {
        self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn next(&mut self) -> (Token, &'a str) {
        let token = self.peek();
        self.at += 1;
        token
    }

    pub(super) fn parse(mut self) -> std::result::Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                (Token::Word | Token::Not, _) => {}
                (Token::End, _) => return Ok(requirements),
                (_, lit) => {
                    return Err(format!("found '{lit}', expected: !, identifier, or 'end of string'"));
                }
            }
            let wrap = |e| format!("unable to parse requirement: {e}");
            requirements.push(self.requirement().map_err(wrap)?);
            match self.next() {
                (Token::End, _) => return Ok(requirements),
                (Token::Comma, _) => match self.peek() {
                    (Token::Word | Token::Not, _) => {}
                    (_, lit) => return Err(format!("found '{lit}', expected: identifier after ','")),
                },
                (_, lit) => return Err(format!("found '{lit}', expected: ',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> std::result::Result<Requirement, String> {
        let (mut token, mut key) = self.next();
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.next();
        }
        if token != Token::Word {
            return Err(format!("found '{key}', expected: identifier"));
        }
        if let Some(text) = joined(name::qualified_name(key)) {
            return Err(FieldError::invalid(&Path::root(), key, text).to_string());
        }
        let operator = match self.peek() {
            _ if negated => Operator::DoesNotExist,
            (Token::End | Token::Comma, _) => Operator::Exists,
            _ => self.operator()?,
        };
        let values = match operator {
            Operator::Exists | Operator::DoesNotExist => Vec::new(),
            Operator::In | Operator::NotIn => self.set()?,
            _ => vec![self.exact()?],
        };
        let requirement = Requirement::new(key, operator, values);
        let errors: Vec<_> = requirement.errors().iter().map(ToString::to_string).collect();
        match errors.as_slice() {
            [] => Ok(requirement),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }

    fn operator(&mut self) -> std::result::Result<Operator, String> {
        let (token, lit) = self.raw();
        self.at += 1;
        match token {
            Token::In => Ok(Operator::In),
            Token::NotIn => Ok(Operator::NotIn),
            Token::Compare(operator) => Ok(operator),
            _ => Err(format!("found '{lit}', expected: in, notin, =, ==, !=, gt, lt")),
        }
    }

    fn exact(&mut self) -> std::result::Result<String, String> {
        match self.peek() {
            (Token::End | Token::Comma, _) => Ok(String::new()),
            (Token::Word, lit) => {
                self.at += 1;
                Ok(lit.to_owned())
            }
            (_, lit) => Err(format!("found '{lit}', expected: identifier")),
        }
    }

    fn set(&mut self) -> std::result::Result<Vec<String>, String> {
        match self.next() {
            (Token::Open, _) => {}
            (_, lit) => return Err(format!("found '{lit}' expected: '('")),
        }
        let mut values = Vec::new();
        let mut word = None;
        loop {
            match self.next() {
                (Token::Word, lit) if word.is_none() => word = Some(lit.to_owned()),
                (Token::Comma, _) => values.push(word.take().unwrap_or_default()),
                (Token::Close, _) => {
                    values.push(word.take().unwrap_or_default());
                    return Ok(values);
                }
                (_, lit) if word.is_some() => return Err(format!("found '{lit}', expected: ',' or ')'")),
                (_, lit) if values.is_empty() => {
                    return Err(format!("found '{lit}', expected: ',', ')' or identifier"));
                }
                (_, lit) => return Err(format!("found '{lit}', expected: ',', or identifier")),
            }
        }
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn is_special(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

/// The first token of a text that does not start with a space, and its length.
fn scan(text: &str) -> (Token, usize) {
    const SYMBOLS: [(&str, Token); 9] = [
        ("==", Token::Compare(Operator::DoubleEquals)),
        ("!=", Token::Compare(Operator::NotEquals)),
        ("=", Token::Compare(Operator::Equals)),
        (">", Token::Compare(Operator::GreaterThan)),
        ("<", Token::Compare(Operator::LessThan)),
        ("!", Token::Not),
        ("(", Token::Open),
        (")", Token::Close),
        (",", Token::Comma),
    ];
    if let Some((symbol, token)) = SYMBOLS.iter().find(|(symbol, _)| text.starts_with(symbol)) {
        return (*token, symbol.len());
    }
    let end = text.find(|c| is_space(c) || is_special(c)).unwrap_or(text.len());
    let token = match &text[..end] {
        "in" => Token::In,
        "notin" => Token::NotIn,
        _ => Token::Word,
    };
    (token, end)
}
