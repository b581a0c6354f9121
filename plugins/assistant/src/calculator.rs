//! What `calculate` calculates.

/// How deep parentheses and powers may be nested.
const MAX_DEPTH: usize = 64;

/// The value of an expression of numbers, parentheses and `+ - * / % ^`.
///
/// # Errors
///
/// A sentence on what is wrong, for the model to read.
pub fn evaluate(expression: &str) -> Result<f64, String> {
    let mut reader = Reader { characters: expression.chars().collect(), at: 0, depth: 0 };
    let value = reader.sum().and_then(|value| match reader.peek() {
        None => Ok(value),
        Some(c) => Err(format!("`{c}` is not an operator")),
    });
    match value {
        Ok(value) if value.is_finite() => Ok(value),
        Ok(_) => Err(format!("`{expression}` has no finite value")),
        Err(what) => Err(format!("{what} (at character {} of `{expression}`)", reader.at + 1)),
    }
}

struct Reader {
    characters: Vec<char>,
    at: usize,
    depth: usize,
}

impl Reader {
    /// The next character that is no white space.
    fn peek(&mut self) -> Option<char> {
        while self.characters.get(self.at).is_some_and(|c| c.is_whitespace()) {
            self.at += 1;
        }
        self.characters.get(self.at).copied()
    }

    /// Takes one of these characters, if it is the next.
    fn take(&mut self, wanted: &[char]) -> Option<char> {
        let found = self.peek().filter(|c| wanted.contains(c))?;
        self.at += 1;
        Some(found)
    }

    fn sum(&mut self) -> Result<f64, String> {
        let mut value = self.product()?;
        while let Some(operator) = self.take(&['+', '-']) {
            let right = self.product()?;
            value = if operator == '+' { value + right } else { value - right };
        }
        Ok(value)
    }

    fn product(&mut self) -> Result<f64, String> {
        let mut value = self.signed()?;
        while let Some(operator) = self.take(&['*', '/', '%']) {
            let right = self.signed()?;
            value = match operator {
                '*' => value * right,
                _ if right == 0.0 => return Err("division by zero".to_owned()),
                '/' => value / right,
                _ => value % right,
            };
        }
        Ok(value)
    }

    /// A power, perhaps with a sign before it: `-2^2` is -4.
    fn signed(&mut self) -> Result<f64, String> {
        let mut sign = 1.0;
        while let Some(c) = self.take(&['+', '-']) {
            sign = if c == '-' { -sign } else { sign };
        }
        Ok(sign * self.power()?)
    }

    fn power(&mut self) -> Result<f64, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("it is nested deeper than {MAX_DEPTH}"));
        }
        let base = match self.take(&['(']) {
            Some(_) => self.parenthesis()?,
            None => self.number()?,
        };
        let value = match self.take(&['^']) {
            Some(_) => base.powf(self.signed()?),
            None => base,
        };
        self.depth -= 1;
        Ok(value)
    }

    fn parenthesis(&mut self) -> Result<f64, String> {
        let value = self.sum()?;
        self.take(&[')']).map(|_| value).ok_or_else(|| "`)` is missing".to_owned())
    }

    fn number(&mut self) -> Result<f64, String> {
        let Some(first) = self.peek() else { return Err("a number is missing".to_owned()) };
        let rest = &self.characters[self.at..];
        let length = rest.iter().take_while(|c| c.is_ascii_digit() || **c == '.').count();
        let text: String = rest[..length].iter().collect();
        let value =
            text.parse().map_err(|_| format!("`{}` is not a number", if length > 0 { text } else { first.into() }))?;
        self.at += length;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::evaluate;

    #[test]
    fn it_calculates_as_one_learns_at_school() {
        for (expression, value) in [
            ("1 + 2 * 3", 7.0),
            ("(1 + 2) * 3", 9.0),
            ("10 - 4 - 3", 3.0),
            ("2^3^2", 512.0),
            ("-2^2", -4.0),
            ("2 ^ -1", 0.5),
            ("7 % 4 / 2", 1.5),
            ("--1.5", 1.5),
        ] {
            assert_eq!(evaluate(expression), Ok(value), "{expression}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let deep = "(".repeat(10_000);
        for (expression, says) in [
            ("", "a number is missing"),
            ("1 +", "a number is missing (at character 4"),
            ("2 apples", "`a` is not an operator (at character 3"),
            ("1.2.3", "`1.2.3` is not a number"),
            ("(1 + 2", "`)` is missing"),
            ("1 / 0", "division by zero"),
            ("10 ^ 1000", "has no finite value"),
            (&deep, "nested deeper than 64"),
        ] {
            let error = evaluate(expression).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
