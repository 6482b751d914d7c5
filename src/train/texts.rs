//! Distinct prompts: each is tokenised once in a run and encoded once in a batch.

use crate::data::Label;

/// All prompts of a run, tokenised, and which class each names.
#[derive(Clone, Debug, Default)]
pub struct TextBank {
    tokens: Vec<Vec<u32>>,
    class: Vec<Label>,
}

impl TextBank {
    /// Adds a prompt, from its start to its end token, and returns its number.
    pub fn add(&mut self, tokens: Vec<u32>, class: Label) -> u32 {
        self.tokens.push(tokens);
        self.class.push(class);
        self.tokens.len() as u32 - 1
    }

    pub(crate) fn tokens(&self, text: u32) -> &[u32] {
        &self.tokens[text as usize]
    }

    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The distinct prompts of a batch whose samples have the prompts `texts`.
    pub fn batch(&self, texts: &[u32]) -> BatchTexts<'_> {
        let mut distinct = texts.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let place = |text: &u32| distinct.binary_search(text).expect("every prompt is among the distinct ones") as u32;
        BatchTexts {
            text_of: texts.iter().map(place).collect(),
            tokens: distinct.iter().map(|text| self.tokens(*text)).collect(),
            class_of_text: distinct.iter().map(|text| self.class[*text as usize]).collect(),
        }
    }
}

/// A batch's distinct prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchTexts<'a> {
    /// Token ids of each distinct prompt.
    pub tokens: Vec<&'a [u32]>,
    /// The class of each distinct prompt.
    pub class_of_text: Vec<Label>,
    /// Which of them each sample has.
    pub text_of: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use super::{Label, TextBank};

    #[test]
    fn a_batch_holds_each_prompt_once() {
        let mut bank = TextBank::default();
        for class in 0..5 {
            bank.add(vec![98, class, 99], Label(class));
        }
        let batch = bank.batch(&[4, 1, 4, 4, 0]);
        assert_eq!(batch.text_of, [2, 1, 2, 2, 0]);
        assert_eq!(batch.class_of_text, [0, 1, 4].map(Label));
        assert_eq!(batch.tokens, [&[98, 0, 99], &[98, 1, 99], &[98, 4, 99]]);
    }
}
